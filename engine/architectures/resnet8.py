"""A small residual network."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ._check import fraction, image, positive

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Resnet8:
    """Residual network of eight layers: one convolution, three residual blocks, one dense layer.

    Attributes:
        width: Channels of the first stage; each of the two later ones doubles them.
        norm: `group` for group normalisation behind each convolution.
        dropout: Share of values that training drops before the dense layer, in [0, 1).
    """

    width: int = 16
    norm: Literal["none", "group"] = "group"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        positive("width", (self.width,))
        fraction("dropout", self.dropout)

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, freshly initialised (He et al. 2015, arXiv 1512.03385, its CIFAR form with n = 1).

        Raises:
            ValueError: The record is no image.
        """
        from torch import nn

        from ._torch import ResidualBlock, normalisation

        normed, width = self.norm == "group", self.width
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(image("resnet8", shape).channels, width, kernel_size=3, padding=1, bias=not normed)),
            ("norm", normalisation(width, normed)),
            ("relu", nn.ReLU()),
            ("block1", ResidualBlock(width, width, 1, normed)),
            ("block2", ResidualBlock(width, 2 * width, 2, normed)),
            ("block3", ResidualBlock(2 * width, 4 * width, 2, normed)),
            ("average", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("dropout", nn.Dropout(self.dropout)),
            ("output", nn.Linear(4 * width, classes)),
        ]
        return nn.Sequential(OrderedDict(layers))
