"""The smallest architecture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Linear:
    """Softmax regression: one linear layer over the flattened record."""

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, freshly initialised. Args: shape of one record, any number of dimensions."""
        from torch import nn

        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten()), ("output", nn.Linear(prod(shape), classes))]
        return nn.Sequential(OrderedDict(layers))
