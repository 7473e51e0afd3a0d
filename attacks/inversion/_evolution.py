"""What the searches without gradients share: whom they ask, and CMA-ES for all classes at once.

Imports torch. Nothing here touches the model but `Target.query`, whatever the adversary holds, so that what is found
here needs no weights, and no gradient that was masked can hide it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...engine.errors import AttackError
from ._priors import VAESettings, fit_pca, fit_vae
from ._white_box import Place

if TYPE_CHECKING:
    from cma import CMAEvolutionStrategy
    from numpy import float32, float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target
    from ._priors import Prior

#: Numbers that the records of one question hold at most: 128 MiB as they are asked.
_NUMBERS = 2**25
#: The adversary's own machine: where the model lives is not his to know.
OWN = Place(torch.device("cpu"), torch.float32)


def fit_prior(kind: str, target: Target, size: int, seed: int, progress: Progress) -> Prior:
    """The prior of this kind, learnt from the adversary's own records on his own machine.

    Args:
        kind: `pca` or `vae`.
        target: Whose auxiliary records are learnt from.
        size: Coordinates of z.
        seed: Of the decomposition or the training.
        progress: Told the share of the fitting that is done.
    """
    if kind == "pca":
        return fit_pca(target.auxiliary, target.bounds, size, seed, OWN)
    return fit_vae(target.auxiliary, target.bounds, VAESettings(size=size), seed, OWN, progress)


@dataclass(frozen=True, slots=True)
class Asked:
    """The model as it answers on what a prior decodes.

    Attributes:
        target: Who is asked.
        prior: What z stands for.
        repeats: How often each record is asked about; the answers are averaged.
        place: Where the prior lives.
    """

    target: Target
    prior: Prior
    repeats: int = 1
    place: Place = OWN

    def records(self, z: NDArray[float64]) -> NDArray[float32]:
        """What z stands for, put back into the box first. Args: z `(n, size)`. Returns: `(n, *shape)`."""
        inside = torch.as_tensor(z, dtype=self.place.dtype, device=self.place.device)
        with torch.no_grad():
            x = self.prior.decode(inside.clamp(-self.prior.radius, self.prior.radius))
        return x.to("cpu", torch.float32).numpy()

    def answers(self, z: NDArray[float64]) -> NDArray[float64]:
        """What the model answers, averaged; one question, or several where memory has no room for one.

        Args:
            z: `(n, size)`.

        Returns:
            `(n, classes)`.

        Raises:
            AttackError: An answer is not finite.
        """
        values = max(1, int(np.prod(self.target.shape)))
        rows = max(1, _NUMBERS // (values * self.repeats))
        parts = [self._ask(z[start : start + rows]) for start in range(0, len(z), rows)]
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise AttackError("the model's answer to a reconstruction is not finite: check its weights")
        return found

    def _ask(self, z: NDArray[float64]) -> NDArray[float64]:
        x = self.records(z)
        answers = self.target.query(np.concatenate([x] * self.repeats) if self.repeats > 1 else x)
        return np.asarray(answers.reshape(self.repeats, len(x), -1).mean(axis=0))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Records that the prior draws, and what the model answers on them: where searches begin.

    Attributes:
        z: `(n, size)`.
        answers: `(n, classes)`.
    """

    z: NDArray[float64]
    answers: NDArray[float64]

    @classmethod
    def ask(cls, asked: Asked, n: int, seed: int) -> Drawn:
        """Draw n records and ask about them."""
        z = asked.prior.sample(n, asked.place.generator(seed)).double().cpu().numpy()
        return cls(z, asked.answers(z))

    def starts(self, costs: NDArray[float64], restarts: int) -> NDArray[float64]:
        """Where each class is looked for: from the prior's centre, then from the draws that cost least.

        Args:
            costs: `(n, k)`, of each draw for each class.
            restarts: Starts for each class.

        Returns:
            `(k * restarts, size)`, those of one class beside each other.
        """
        best = np.argsort(costs, axis=0, kind="stable")[: restarts - 1].T
        found = np.zeros((costs.shape[1], restarts, self.z.shape[1]))
        found[:, 1 : 1 + best.shape[1]] = self.z[best]
        return np.asarray(found.reshape(-1, self.z.shape[1]))


@dataclass(frozen=True, slots=True)
class Evolution:
    """CMA-ES (Hansen, arXiv 1604.00772) with a diagonal covariance (Ros and Hansen 2008), for a number of generations.

    A full covariance of these sizes takes more generations to learn than an adversary pays for, and the coordinates of
    a prior are uncorrelated where it was learnt.

    Attributes:
        population: Points of a generation.
        generations: How many there are, whatever they find.
        step: Standard deviation of the first one.
    """

    population: int
    generations: int
    step: float = 1.0

    def search(
        self,
        starts: NDArray[float64],
        costs: Callable[[NDArray[float64]], NDArray[float64]],
        seed: int,
        progress: Progress,
    ) -> NDArray[float64]:
        """Look for the least cost from every start, a generation of all searches at a time.

        What is returned is the centre of the last generation, not the best point ever met: where answers are noisy, the
        best one was lucky.

        Args:
            starts: `(m, size)`.
            costs: Of the points of all searches, `(m, population, size)`: `(m, population)`, finite.
            seed: Of all steps.
            progress: Told the share of the generations that are done.

        Returns:
            `(m, size)`.
        """
        strategies = [self._strategy(start, np.random.default_rng([seed, i])) for i, start in enumerate(starts)]
        for generation in range(self.generations):
            points = [strategy.ask() for strategy in strategies]
            found = costs(np.asarray(points))
            for strategy, own, cost in zip(strategies, points, found, strict=True):
                strategy.tell(own, cost.tolist())
            progress((generation + 1) / self.generations)
        return np.stack([strategy.result.xfavorite for strategy in strategies])

    def _strategy(self, start: NDArray[float64], rng: np.random.Generator) -> CMAEvolutionStrategy:
        """One search, its random numbers its own: seeded with NaN, the library leaves the world's alone."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses a plotting library, which nobody here needs
            from cma import CMAEvolutionStrategy

        options = {
            "popsize": self.population,
            "CMA_diagonal": True,
            "randn": lambda *size: rng.standard_normal(size),
            "seed": np.nan,
            "verbose": -9,
        }
        return CMAEvolutionStrategy(start, self.step, options)


def favourites(
    found: NDArray[float64], costs: Callable[[NDArray[float64]], NDArray[float64]], restarts: int
) -> NDArray[float64]:
    """Of each class the search that ended at the least cost, asked once more. Returns: `(k, size)`."""
    last = costs(found[:, None, :]).reshape(-1, restarts)
    best = last.argmin(axis=1)
    return np.asarray(found.reshape(len(last), restarts, -1)[np.arange(len(last)), best])
