"""What LOMMA adds to an inversion with a prior: features to stay near, and students that have to be convinced too.

Imports torch. Nguyen et al. 2023, arXiv 2304.01669.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import kl_div

from ...engine.errors import AttackError
from ._gan import adam, critic_body, linear_after, positions, step
from ._priors import scaled
from ._white_box import ROWS, Place, is_image

if TYPE_CHECKING:
    from ...engine.attack import Progress
    from ...engine.target import Records

#: Channels of a student's last convolution, in turn.
_WIDTHS = (32, 48, 64)
_BATCH = 64
_LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model makes of records.

    Attributes:
        logits: `(n, classes)`.
        features: `(n, d)`, what its last linear layer reads; `(n, 0)` where nobody asked.
    """

    logits: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True, slots=True)
class Watched:
    """A model whose last linear layer is watched for what it reads.

    Attributes:
        module: The model.
        layer: Its last linear layer; `None` where nobody wants its features.
    """

    module: nn.Module
    layer: nn.Linear | None

    @classmethod
    def of(cls, module: nn.Module, classes: int) -> Watched:
        """Find the layer.

        Raises:
            AttackError: The model ends in no linear layer over its classes.
        """
        found = [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == classes]
        if not found:
            raise AttackError(
                f"features > 0 needs a model with a linear layer over its {classes} classes, and this one has none: "
                "set features to 0"
            )
        return cls(module, found[-1])

    def see(self, x: torch.Tensor) -> Seen:
        """One forward pass; the watch is taken off again, whatever happens. Args: x `(n, *shape)`."""
        if self.layer is None:
            return Seen(self.module(x), x.new_zeros(len(x), 0))
        read: list[torch.Tensor] = []
        watch = self.layer.register_forward_pre_hook(lambda layer, given: read.append(given[0].flatten(1)))
        try:
            logits = self.module(x)
        finally:
            watch.remove()
        if not read:
            raise AttackError("the model does not use its last linear layer: set features to 0")
        return Seen(logits, read[-1])

    def see_all(self, x: torch.Tensor) -> Seen:
        """Batch after batch, without gradients. Args: x `(n, *shape)`."""
        with torch.no_grad():
            parts = [self.see(x[i : i + ROWS]) for i in range(0, len(x), ROWS)]
        return Seen(torch.cat([p.logits for p in parts]), torch.cat([p.features for p in parts]))


@dataclass(frozen=True, slots=True)
class Student:
    """A network that was taught what the model answers on the adversary's records.

    Attributes:
        network: From records in [0, 1] to logits.
        bounds: Smallest and largest value of a record.
    """

    network: nn.Module
    bounds: tuple[float, float]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Its logits. Args: x `(n, *shape)`. Returns: `(n, classes)`."""
        low, high = self.bounds
        logits: torch.Tensor = self.network((x - low) / (high - low))
        return logits


def distil(
    auxiliary: Records | None,
    logits: torch.Tensor,
    bounds: tuple[float, float],
    students: int,
    steps: int,
    seed: int,
    place: Place,
    progress: Progress,
) -> tuple[Student, ...]:
    """Teach small networks of different widths the model's answers: Kullback-Leibler divergence at temperature 1.

    Args:
        auxiliary: The adversary's records.
        logits: `(n, classes)`, what the model answers on them.
        bounds: Smallest and largest value of a record.
        students: How many.
        steps: Of Adam, for each.
        seed: Of first weights and batches.
        place: Where they live.
        progress: Told the share of the students that are taught.
    """
    x = scaled(auxiliary, bounds, place)
    answers = logits.detach().float().log_softmax(dim=1)
    taught = []
    for number in range(students):
        width = _WIDTHS[number % len(_WIDTHS)] if is_image(tuple(x.shape[1:])) else None
        network = _student(tuple(x.shape[1:]), width, answers.shape[1], seed + number, place)
        _teach(network, x, answers, steps, place.generator(seed + number))
        taught.append(Student(network.to(place.dtype).eval().requires_grad_(False), bounds))
        progress((number + 1) / students)
    return tuple(taught)


def _student(shape: tuple[int, ...], width: int | None, classes: int, seed: int, place: Place) -> nn.Module:
    return place.build(
        lambda: nn.Sequential(body := critic_body(shape, width), linear_after(body, shape, classes)), seed
    )


def _teach(network: nn.Module, x: torch.Tensor, answers: torch.Tensor, steps: int, generator: torch.Generator) -> None:
    """Adam on the divergence from the model's answers."""
    optimiser, batches = adam(network, _LEARNING_RATE, 0.9), positions(len(x), _BATCH, generator)
    with torch.enable_grad():
        for _ in range(steps):
            index = next(batches)
            said = network(x[index]).log_softmax(dim=1)
            step(optimiser, kl_div(said, answers[index], log_target=True, reduction="batchmean"))
