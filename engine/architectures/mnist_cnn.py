"""The network that differentially private training is mostly timed on."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ._check import image

if TYPE_CHECKING:
    import torch

#: Smaller images leave nothing for the second pooling.
_SMALLEST = 14


@dataclass(frozen=True, slots=True)
class MnistCnn:
    """The convolutional network of Opacus' MNIST example: 26,010 parameters for 10 classes of 28×28 grey images.

    Attributes:
        activation: `relu`, or `tanh`, whose bounded values lose less to clipping (Papernot et al., arXiv 2007.14191).
    """

    activation: Literal["relu", "tanh"] = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ("relu", "tanh"):
            raise ValueError(f"unknown activation '{self.activation}', expected relu or tanh")

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, freshly initialised.

        Raises:
            ValueError: The record is no image, or too small a one.
        """
        from torch import nn

        size = image("mnist_cnn", shape)
        height, width = (self.side(side) for side in (size.height, size.width))
        bend = nn.ReLU if self.activation == "relu" else nn.Tanh
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(size.channels, 16, kernel_size=8, stride=2, padding=3)),
            ("activation1", bend()),
            ("pool1", nn.MaxPool2d(2, stride=1)),
            ("conv2", nn.Conv2d(16, 32, kernel_size=4, stride=2)),
            ("activation2", bend()),
            ("pool2", nn.MaxPool2d(2, stride=1)),
            ("flatten", nn.Flatten()),
            ("hidden", nn.Linear(32 * height * width, 32)),
            ("activation3", bend()),
            ("output", nn.Linear(32, classes)),
        ]
        return nn.Sequential(OrderedDict(layers))

    @staticmethod
    def side(side: int) -> int:
        """How many places of an image's side are left behind the second pooling.

        Raises:
            ValueError: None would be.
        """
        if side < _SMALLEST:
            raise ValueError(
                f"mnist_cnn reads images of {_SMALLEST}×{_SMALLEST} pixels or more, found a side of {side}"
            )
        return (side // 2 - 1 - 4) // 2
