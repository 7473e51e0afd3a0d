"""How many records are worked on at a time. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import copy
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .dp_sgd import Way

#: What the records that are worked on at a time may take: small enough for a cache, large enough for fast products.
_BYTES = 32 << 20
_FLOAT = 4
_LEAST, _MOST = 8, 1024


def records_at_once(module: nn.Module, example: torch.Tensor, way: Way) -> int:
    """As many records as fit a fixed size. Args: example `(k, *shape)`."""
    floats = _activations(module, example[:1])
    if way in ("hooks", "functorch"):
        floats += 2 * sum(p.numel() for p in module.parameters() if p.requires_grad)
    return max(_LEAST, min(_MOST, _BYTES // (_FLOAT * max(1, floats))))


def _activations(module: nn.Module, record: torch.Tensor) -> int:
    """How many numbers the answers of all layers are, and their errors, and what each place of a convolution sees."""
    found = [2 * record.numel()]

    def count(layer: nn.Module, _: object, answer: object) -> None:
        if isinstance(answer, torch.Tensor):
            found.append(2 * answer.numel())
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and isinstance(answer, torch.Tensor):
            found.append(prod(answer.shape[2:]) * layer.in_channels // layer.groups * prod(layer.kernel_size))

    probe = copy.deepcopy(module).eval()
    for layer in probe.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    with torch.no_grad():
        probe(record)
    return sum(found)
