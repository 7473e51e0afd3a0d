"""Fully connected layers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from ._check import fraction, positive

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Mlp:
    """Multilayer perceptron over the flattened record.

    Attributes:
        hidden: Width of each hidden layer, from the record to the answer.
        activation: What stands behind each hidden layer.
        dropout: Share of hidden values that training drops, in [0, 1).
    """

    hidden: tuple[int, ...] = (128,)
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        positive("hidden", self.hidden)
        fraction("dropout", self.dropout)

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, freshly initialised. Args: shape of one record, any number of dimensions."""
        from torch import nn

        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        width = prod(shape)
        for number, following in enumerate(self.hidden, start=1):
            layers.append((f"hidden{number}", nn.Linear(width, following)))
            layers.append((f"activation{number}", nn.ReLU() if self.activation == "relu" else nn.Tanh()))
            if self.dropout:
                layers.append((f"dropout{number}", nn.Dropout(self.dropout)))
            width = following
        return nn.Sequential(OrderedDict([*layers, ("output", nn.Linear(width, classes))]))
