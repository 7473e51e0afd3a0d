"""What the known architectures are made of, counted layer by layer as they are built. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ..architectures._check import image
from ..architectures.cnn import _GRID, Cnn
from ..architectures.linear import Linear
from ..architectures.mlp import Mlp
from ..architectures.mnist_cnn import MnistCnn
from ..architectures.resnet8 import Resnet8


@dataclass(slots=True)
class Layers:
    """Counts layers one after the other.

    Attributes:
        shape: Of what the last one answers for one record.
        parameters: How many numbers.
        activations: How many numbers the record and all answers are together.
        patches: How many numbers the places of the convolutions see, each place apart.
    """

    shape: tuple[int, ...]
    parameters: int = 0
    activations: int = 0
    patches: int = 0

    def __post_init__(self) -> None:
        self.activations += prod(self.shape)

    def same(self, times: int = 1) -> None:
        """Layers without parameters that answer as much as they are fed."""
        self.activations += times * prod(self.shape)

    def norm(self, wanted: bool) -> None:
        """A scale and a shift for each channel, or nothing that has parameters."""
        self.parameters += 2 * self.shape[0] * wanted
        self.same()

    def averaged(self, *sides: int) -> None:
        """Pooling to these sides."""
        self.shape = (self.shape[0], *sides)
        self.same()

    def dense(self, width: int) -> None:
        """A dense layer over everything."""
        self.parameters += (prod(self.shape) + 1) * width
        self.shape = (width,)
        self.same()

    def convolution(self, channels: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> None:
        """One that is padded to answer at each place, or at each that the stride meets."""
        depth, height, width = self.shape
        seen = depth * kernel**2
        self.parameters += channels * (seen + bias)
        self.shape = (channels, -(-height // stride), -(-width // stride))
        self.patches += prod(self.shape[1:]) * seen
        self.same()

    def window(self, channels: int, kernel: int, stride: int, padding: int = 0) -> None:
        """A convolution whose windows all lie within the padded image."""
        depth, height, width = self.shape
        self.parameters += channels * (depth * kernel**2 + 1)
        self.shape = (channels, *((side + 2 * padding - kernel) // stride + 1 for side in (height, width)))
        self.same()
        self.patches += prod(self.shape[1:]) * depth * kernel**2


def layers(architecture: object, shape: tuple[int, ...], classes: int) -> Layers | None:
    """Those of a network over such records; `None` for an architecture that is not known here."""
    count = _KNOWN.get(type(architecture))
    if count is None:
        return None
    found = Layers(shape)
    count(architecture, found)
    found.dense(classes)
    return found


def _linear(_: Linear, found: Layers) -> None:
    found.same()


def _mlp(mlp: Mlp, found: Layers) -> None:
    found.same()
    for width in mlp.hidden:
        found.dense(width)
        found.same(1 + bool(mlp.dropout))


def _cnn(cnn: Cnn, found: Layers) -> None:
    image("cnn", found.shape)
    for channels in cnn.channels:
        found.convolution(channels)
        if cnn.norm == "group":
            found.norm(True)
        found.same()
        height, width = found.shape[1:]
        if min(height, width) >= 2:
            found.averaged(height // 2, width // 2)
    if max(found.shape[1:]) > _GRID:
        found.averaged(*(min(side, _GRID) for side in found.shape[1:]))
    found.same(1 + bool(cnn.dropout))
    for width in cnn.hidden:
        found.dense(width)
        found.same(1 + bool(cnn.dropout))


def _mnist_cnn(_: MnistCnn, found: Layers) -> None:
    size = image("mnist_cnn", found.shape)
    for side in (size.height, size.width):
        MnistCnn.side(side)
    for channels, kernel, padding in ((16, 8, 3), (32, 4, 0)):
        found.window(channels, kernel, stride=2, padding=padding)
        found.same()
        found.averaged(*(side - 1 for side in found.shape[1:]))
    found.same()
    found.dense(32)
    found.same()


def _resnet8(resnet: Resnet8, found: Layers) -> None:
    image("resnet8", found.shape)
    normed = resnet.norm == "group"
    _convolutions(found, resnet.width, 1, 1, normed)
    for times, stride in ((1, 1), (2, 2), (4, 2)):
        _block(found, times * resnet.width, stride, normed)
    found.averaged(1, 1)
    found.same(2)


def _convolutions(found: Layers, channels: int, stride: int, number: int, normed: bool) -> None:
    """So many convolutions, each normed and rectified; the first with the stride."""
    for i in range(number):
        found.convolution(channels, stride=1 if i else stride, bias=not normed)
        found.norm(normed)
        found.same()


def _block(found: Layers, channels: int, stride: int, normed: bool) -> None:
    """Two convolutions beside a shortcut, which is a convolution itself where the shape changes."""
    given = found.shape
    _convolutions(found, channels, stride, 2, normed)
    if given == found.shape:
        found.same()
        return
    found.shape = given
    found.convolution(channels, kernel=1, stride=stride)


_KNOWN: Mapping[type, Callable[[Any, Layers], None]] = {
    Cnn: _cnn,
    Linear: _linear,
    Mlp: _mlp,
    MnistCnn: _mnist_cnn,
    Resnet8: _resnet8,
}
