"""The search that every attack with a prior shares: z descends, stays where the prior knows it, and the model picks.

Imports torch. What is descended on differs from attack to attack; starts, steps, the box around z, restarts and their
selection by the target's own answers do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch

from ._white_box import Place, best_restarts, gradient_at

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress


class Box(Protocol):
    """Where z is drawn from, and how far it may go; every prior is one."""

    @property
    def radius(self) -> float: ...

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw z. Returns: `(n, size)`."""
        ...


#: Of rows of z `(n, size)` to what is descended on, `(n,)`, a row at a time.
Objective = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Search:
    """How z is looked for.

    Attributes:
        steps: Descent steps.
        optimiser: Descends on the z that it is given; reads `z.grad`.
    """

    steps: int
    optimiser: Callable[[list[torch.Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack's search for all of its classes.

    Attributes:
        prior: Where z is drawn from and how far it may go.
        search: How z descends.
        direction: For a batch of labels `(n,)`: what stands in for the gradient at z `(n, size)`.
        images: For z and labels: the records, `(n, *shape)`.
        score: For records and labels: what the model under attack says of them, `(n,)`; the highest restart is kept.
    """

    prior: Box
    search: Search
    direction: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]
    images: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def run(
        self,
        classes: NDArray[int64],
        restarts: int,
        place: Place,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: Progress,
    ) -> NDArray[float32]:
        """The best of the restarts for each class. Args: classes `(k,)`. Returns: `(k, *shape)`."""
        attempt = partial(self._attempt, generator)
        return best_restarts(classes, restarts, place, shape, attempt, self.score, progress)

    def _attempt(self, generator: torch.Generator, labels: torch.Tensor, progress: Progress) -> torch.Tensor:
        """One search for each label. Returns: `(n, *shape)`."""
        z = descend(self.prior, self.search, self.direction(labels), len(labels), generator, progress)
        with torch.no_grad():
            return self.images(z, labels)


def descend(
    prior: Box,
    search: Search,
    direction: Callable[[torch.Tensor], torch.Tensor],
    n: int,
    generator: torch.Generator,
    progress: Progress,
) -> torch.Tensor:
    """Descend from z that the prior draws, putting it back into the box after every step. Returns: `(n, size)`."""
    z = prior.sample(n, generator)
    optimiser = search.optimiser([z])
    for step in range(search.steps):
        z.grad = direction(z)
        optimiser.step()
        z.clamp_(-prior.radius, prior.radius)
        progress((step + 1) / search.steps)
    z.grad = None
    return z


def adam(learning_rate: float) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    """Adam on z."""
    return lambda z: torch.optim.Adam(z, lr=learning_rate)


def momentum(learning_rate: float, kept: float) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    """Nesterov's momentum on z. GMI's v' = kept v - rate g, z' = z - kept v + (1 + kept) v' comes to the same steps."""
    return lambda z: torch.optim.SGD(z, lr=learning_rate, momentum=kept, nesterov=True)


def log_likelihood(module: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the model under attack says of each record's label. Args: x `(n, *shape)`. Returns: `(n,)` float64, <= 0."""
    with torch.no_grad():
        logits: torch.Tensor = module(x)
    return logits.double().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]


def plainly(objective: Objective) -> Callable[[torch.Tensor], torch.Tensor]:
    """Follow the gradient itself."""
    return lambda z: gradient_at(z, objective).gradient


def against(objective: Objective, penalty: Objective) -> Callable[[torch.Tensor], torch.Tensor]:
    """Follow the gradient of the objective over the largest that the row has met, and that of the penalty as it is.

    So neither the scale of the logits nor the size of the record decides how much the penalty counts.
    """
    steepest: list[torch.Tensor] = []

    def direction(z: torch.Tensor) -> torch.Tensor:
        slope = gradient_at(z, objective).gradient
        size = slope.square().mean(dim=1, keepdim=True).sqrt()
        steepest[:] = [torch.maximum(steepest[0], size) if steepest else size]
        return slope / steepest[0].clamp_min(torch.finfo(z.dtype).tiny) + gradient_at(z, penalty).gradient

    return direction
