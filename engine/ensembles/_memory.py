"""How much memory a training takes, and how it is kept."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, cast

from ..architectures import Architecture
from ..recipe import Recipe
from ._layers import layers

if TYPE_CHECKING:
    import torch
    from torch import nn

#: The most that glibc's own adjustment follows, less its header and the alignment of tensors.
_LARGEST = 32 * 2**20 - 2**16


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one model is made of.

    Attributes:
        parameters: How many numbers.
        activations: How many numbers its layers answer for one record, together.
        patches: How many numbers the places of its convolutions see in one record, each place apart.
    """

    parameters: int
    activations: int
    patches: int


def footprint(recipe: Recipe) -> Footprint:
    """Of the recipe's architecture; imports no torch for one that is known here."""
    found = layers(recipe.architecture, recipe.task.shape, recipe.task.classes)
    if found is not None:
        return Footprint(found.parameters, found.activations, found.patches)
    return built(cast("Hashable", recipe.architecture), recipe.task.shape, recipe.task.classes)


@lru_cache(maxsize=64)
def built(key: Hashable, shape: tuple[int, ...], classes: int) -> Footprint:
    """Of any architecture, by building it; no memory is allocated for it and no chance is drawn."""
    import torch
    from torch import nn

    architecture = cast("Architecture", key)
    sizes, seen = [prod(shape)], [0]

    def note(layer: nn.Module, _given: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        sizes.append(answer.numel())
        if isinstance(layer, nn.Conv2d):
            seen.append(prod(answer.shape[2:]) * layer.weight[0].numel())

    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        module = architecture.build(shape, classes)
        for layer in module.modules():
            if not list(layer.children()):
                layer.register_forward_hook(note)
        module(torch.empty(1, *shape))
    return Footprint(sum(p.numel() for p in module.parameters()), sum(sizes), sum(seen))


def one_model(recipe: Recipe, records: int, models: int) -> int:
    """Bytes of training one model after the other: records, one model's state, one batch, all weights."""
    size, batch = footprint(recipe), min(recipe.batch_size, records)
    data = 2 * records * prod(recipe.task.shape)
    # Weights, gradients and two moments; each activation with its gradient and what pooling remembers of it.
    return 4 * (data + 4 * size.parameters + 4 * batch * size.activations + models * size.parameters)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what comes next, instead of giving it back and asking again.

    Fresh pages cost a convolutional training a quarter of its time. glibc keeps pieces up to the largest that it has
    seen freed; elsewhere this does nothing.
    """
    import torch

    torch.empty(_LARGEST, dtype=torch.uint8)
