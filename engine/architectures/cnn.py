"""Convolutional layers for images of any size."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ._check import fraction, image, positive

if TYPE_CHECKING:
    import torch

#: Larger feature maps are averaged down to this many places a side, so that the first dense layer stays small.
_GRID = 8


@dataclass(frozen=True, slots=True)
class Cnn:
    """Convolutional network: 3×3 convolutions, each halving the image, then dense layers.

    Attributes:
        channels: Output channels of each convolution; sides are halved behind each while they have two places.
        hidden: Width of each dense layer before the answer; may be empty.
        norm: `group` for group normalisation behind each convolution. Batch normalisation is not offered: it mixes
            records, which no per-record guarantee survives.
        dropout: Share of values that training drops before each dense layer, in [0, 1).
    """

    channels: tuple[int, ...] = (16, 32)
    hidden: tuple[int, ...] = (64,)
    norm: Literal["none", "group"] = "none"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("expected at least one number in channels")
        positive("channels", self.channels)
        positive("hidden", self.hidden)
        fraction("dropout", self.dropout)

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, freshly initialised.

        Raises:
            ValueError: The record is no image.
        """
        from torch import nn

        size = image("cnn", shape)
        height, width, depth = size.height, size.width, size.channels
        layers: list[tuple[str, nn.Module]] = []
        for number, channels in enumerate(self.channels, start=1):
            layers += self._convolution(number, depth, channels)
            if min(height, width) >= 2:
                layers.append((f"pool{number}", nn.MaxPool2d(2)))
                height, width = height // 2, width // 2
            depth = channels
        grid = (min(height, _GRID), min(width, _GRID))
        if grid != (height, width):
            layers.append(("average", nn.AdaptiveAvgPool2d(grid)))
        layers.append(("flatten", nn.Flatten()))
        return nn.Sequential(OrderedDict(layers + self._dense(depth * grid[0] * grid[1], classes)))

    def _convolution(self, number: int, depth: int, channels: int) -> list[tuple[str, torch.nn.Module]]:
        """One convolution with what follows it, up to the pooling."""
        from torch import nn

        from ._torch import group_norm

        norm = [(f"norm{number}", group_norm(channels))] if self.norm == "group" else []
        convolution = nn.Conv2d(depth, channels, kernel_size=3, padding=1)
        return [(f"conv{number}", convolution), *norm, (f"relu{number}", nn.ReLU())]

    def _dense(self, width: int, classes: int) -> list[tuple[str, torch.nn.Module]]:
        """The dense layers from the flattened feature maps to one logit a class."""
        from torch import nn

        layers: list[tuple[str, nn.Module]] = []
        for number, following in enumerate(self.hidden, start=1):
            if self.dropout:
                layers.append((f"dropout{number}", nn.Dropout(self.dropout)))
            layers += [(f"hidden{number}", nn.Linear(width, following)), (f"activation{number}", nn.ReLU())]
            width = following
        if self.dropout:
            layers.append((f"dropout{len(self.hidden) + 1}", nn.Dropout(self.dropout)))
        return [*layers, ("output", nn.Linear(width, classes))]
