"""Maximum a posteriori: the record that is most likely, given what the model says and what records look like.

The posterior over z, whose prior is a standard normal, is known but for a constant:

    log p(z | y) = log p(y | x(z)) + log p(z),    log p(z) = -|z|^2 / 2

One answer weighs next to nothing against a prior of many directions: untempered, the maximum stays where every record
looks like the mean. So the prior counts per direction: what is made large is

    log p(y | x(z)) - prior_weight * |z|^2 / (2 * size)

A record that is as far from the centre as those that the prior draws has |z|^2 = size. `prior_weight` = the number of
directions gives the posterior of a single answer, 0 the maximum of the likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import SCORES, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target
    from ._latent_search import Objective
    from ._priors import Prior
    from ._scores import Cost
    from ._white_box import Place

#: What is known of records before the model is asked.
_Kind = Literal["pca", "marginals", "uniform"]


@dataclass(frozen=True, slots=True)
class MaximumAPosteriori:
    """Finds the most likely record, given that the model puts it into the class and what records are like.

    By gradient where the adversary holds the weights, by CMA-ES on the model's answers where he does not.

    Attributes:
        prior: `pca`, a Gaussian with the covariance of the adversary's records, along the directions in which they
            differ most; `marginals`, a Gaussian for each value by itself, whether it is continuous or discrete; or
            `uniform` within the bounds, where nothing is known, so that the likelihood alone decides.
        size: Directions of `pca`; the others have one for each value that varies.
        prior_weight: Weight of the prior's log-density per direction against the log-probability of the class.
        steps: Adam steps, with the weights.
        learning_rate: Adam's first step, in standard deviations of the prior; the last one is 0.
        population: Points of a generation, without the weights.
        generations: How many there are.
        restarts: Searches for each class: one from the prior's centre, the others from the draws that are most likely.
        draws: Records that the prior draws to begin with, for all classes together.
        repeats: How often each record is asked about where the release answers differently every time.
    """

    prior: _Kind = "pca"
    size: int = 64
    prior_weight: float = 1.0
    steps: int = 300
    learning_rate: float = 0.1
    population: int = 32
    generations: int = 100
    restarts: int = 2
    draws: int = 500
    repeats: int = 4

    source: ClassVar[str] = "Fredrikson et al., USENIX Security 2014; Wang et al. 2021, arXiv 2009.05241 (MAP)"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the class label", "how each value or the records as a whole are distributed"),
        goal=Goal.CLASS,
        auxiliary=True,
    )
    thorough: ClassVar[Mapping[str, object]] = {"steps": 1000, "population": 64, "generations": 200}

    def __post_init__(self) -> None:
        if self.prior not in get_args(_Kind):
            raise ValueError(f"expected prior={self.prior!r} to be one of {', '.join(get_args(_Kind))}")
        for name in ("size", "steps", "generations", "restarts", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        for name in ("population", "draws"):
            if getattr(self, name) < 4:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 4")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"expected learning_rate={self.learning_rate} > 0")
        if not 0 <= self.prior_weight < math.inf:
            raise ValueError(f"expected prior_weight={self.prior_weight} >= 0")

    def queries(self, targets: int, auxiliary: int) -> int:
        """The draws, and for each search its steps or its points, whichever are more, and its end once more.

        An adversary with the weights asks once for each step, one without for every point of every generation.
        """
        searched = max(self.steps, self.population * self.generations) + 1
        return self.repeats * (self.draws + targets * self.restarts * searched)

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once.

        Args:
            target: The adversary holds its weights, or its release gives scores. He must own records, unless the prior
                is uniform.
            classes: `(k,)`.
            seed: Decides the prior, the draws and the steps of CMA-ES.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: of each class the most likely record that a search ended at, within the bounds.

        Raises:
            AccessError: He holds no weights, and the release gives no scores.
            AttackError: He owns too few records, they do not differ, or an answer is not finite.
        """
        from ._evolution import OWN, Asked, Drawn, Evolution, favourites
        from ._scores import Cost, check_scores
        from ._white_box import Place

        check_scores(target)
        held = target.access is Access.WEIGHTS
        place = Place.of(target.module()) if held else OWN
        prior = self._fit(target, seed, place)
        asked = Asked(target, prior, self.repeats if target.noisy else 1, place)
        drawn = Drawn.ask(asked, self.draws, seed)
        weight = 0.0 if self.prior == "uniform" else self.prior_weight / prior.size
        cost = Cost(asked, classes, "ce", self.restarts).undone_by(drawn).weighed(weight)
        starts = drawn.starts(cost.of_draws(drawn), self.restarts)
        if held:
            found = self._descend(cost, starts, progress)
        else:
            found = Evolution(self.population, self.generations).search(starts, cost, seed, progress)
        return asked.records(favourites(found, cost, self.restarts))

    def _fit(self, target: Target, seed: int, place: Place) -> Prior:
        """What is known of records before the model is asked."""
        from ._marginals import marginals, uniform
        from ._priors import fit_pca

        if self.prior == "pca":
            return fit_pca(target.auxiliary, target.bounds, self.size, seed, place)
        if self.prior == "marginals":
            return marginals(target.auxiliary, target.bounds, place)
        return uniform(target.shape, target.bounds, place)

    def _descend(self, cost: Cost, starts: NDArray[float64], progress: Progress) -> NDArray[float64]:
        """Adam from every start, its steps shrinking to 0. Args: starts `(k * restarts, size)`. Returns: the same."""
        import numpy as np
        import torch

        from ._white_box import tell

        place, done, parts = cost.asked.place, 0, []
        for labels in place.batches(np.repeat(cost.classes, self.restarts)):
            here = starts[done : done + len(labels)]
            z = torch.as_tensor(here, dtype=place.dtype, device=place.device)
            told = partial(tell, progress, done / len(starts), len(labels) / len(starts))
            parts.append(self._adam(partial(_negative_log_posterior, cost, labels), z, cost.asked.prior.radius, told))
            done += len(labels)
        return torch.cat(parts).double().cpu().numpy()

    def _adam(self, objective: Objective, z: torch.Tensor, radius: float, progress: Progress) -> torch.Tensor:
        """Descend within the box. Args: z `(n, size)`, is written to. Returns: it."""
        import torch

        from ._white_box import gradient_at

        adam = torch.optim.Adam([z], lr=self.learning_rate)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
            z.grad = gradient_at(z, objective).gradient
            adam.step()
            z.clamp_(-radius, radius)
            progress((step + 1) / self.steps)
        z.grad = None
        return z


def _negative_log_posterior(cost: Cost, labels: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What is made small, from the model itself. Args: labels `(n,)`, z `(n, size)`. Returns: `(n,)`."""
    target = cost.asked.target
    target.queries += len(z)  # what goes through the model itself nobody else counts
    logits: torch.Tensor = target.module()(cost.asked.prior.decode(z))
    likelihood = (cost.factor * logits).log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return 0.5 * cost.weight * z.square().sum(dim=1) - likelihood
