"""The cheap member of the family of inversions with a prior: eigen-images or a small autoencoder, ready in seconds.

What the adversary's own records look like keeps the search among plausible records, where one without a prior ends in
whatever convinces the model. The prior may come from other classes than those that are reconstructed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure
from ._white_box import Place, Views, confidence, lead_of_another, tell, total_variation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target
    from ._priors import Prior

#: Where plausible records come from.
_Kind = Literal["pca", "vae"]
#: Share of the work that fitting the prior is reckoned as.
_FITTING = 0.3


@dataclass(frozen=True, slots=True)
class Latent:
    """Optimises plausible records until the model recognises the class in many views of them.

    The gradient of the loss is divided by the largest that the row has met, so that neither the scale of the logits nor
    the number of directions decides how much the prior counts. A smaller `typicality` ends in bolder records, which
    identify more and lie further away.

    Attributes:
        prior: `pca`, the directions in which the adversary's records differ most; or `vae`, a variational autoencoder.
        size: Directions, or coordinates of the autoencoder.
        steps: Adam steps.
        learning_rate: Adam's step, in standard deviations of the prior.
        typicality: Weight of the distance from the prior's centre.
        total_variation: Weight of the differences between neighbours.
        restarts: Random starts per class; one of them is selected.
        transforms: Random views through which the restarts are compared.
        shift: Furthest shift of a view, as a share of the side.
        scale: Largest change of size of a view, as a share of the side.
        flip: Whether half of the views are mirrored.
    """

    prior: _Kind = "pca"
    size: int = 64
    steps: int = 300
    learning_rate: float = 0.05
    typicality: float = 1.0
    total_variation: float = 0.0
    restarts: int = 5
    transforms: int = 100
    shift: float = 0.05
    scale: float = 0.05
    flip: bool = False

    source: ClassVar[str] = (
        "after Zhang et al. 2020, arXiv 1911.07135, with eigen-images or an autoencoder for the GAN; max-margin loss: "
        "Yuan et al. 2023, arXiv 2302.09814; selection over random views: Struppek et al. 2022, arXiv 2201.12179"
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the class label",),
        goal=Goal.CLASS,
        auxiliary=True,
    )
    thorough: ClassVar[Mapping[str, object]] = {"steps": 1000, "restarts": 10}

    def __post_init__(self) -> None:
        if self.prior not in get_args(_Kind):
            raise ValueError(f"expected prior={self.prior!r} to be one of {', '.join(get_args(_Kind))}")
        for name in ("size", "steps", "restarts", "transforms"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"expected learning_rate={self.learning_rate} > 0")
        for name in ("typicality", "total_variation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 0")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected 0 <= {name}={getattr(self, name)} < 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One forward pass per class, restart and step, and one more per view in which it is compared."""
        return targets * self.restarts * (self.steps + self.transforms)

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once.

        Args:
            target: The adversary must hold its weights and own records, of these or of other classes.
            classes: `(k,)`.
            seed: Decides the prior, starts and views.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: of each class the restart that the model recognises best, within the bounds.

        Raises:
            AccessError: The adversary does not hold the weights.
            AttackError: He owns too few records, or they do not differ.
        """
        from ._latent_search import Search, Trial, adam

        module = target.module()
        place = Place.of(module)
        generator, views = place.generator(seed), Views(self.shift, self.scale, self.flip)
        prior = self._fit(target, seed, place, partial(tell, progress, 0.0, _FITTING))
        seen = views.draw(self.transforms, place, generator)  # the same views for every restart
        trial = Trial(
            prior,
            Search(self.steps, adam(self.learning_rate)),
            partial(self._direction, module, prior, views, generator),
            lambda z, labels: prior.decode(z),
            lambda images, labels: confidence(module, images, labels, views, seen),
        )
        told = partial(tell, progress, _FITTING, 1 - _FITTING)
        return trial.run(classes, self.restarts, place, target.shape, generator, told)

    def _fit(self, target: Target, seed: int, place: Place, progress: Progress) -> Prior:
        """The prior, learnt from the adversary's own records."""
        from ._priors import VAESettings, fit_pca, fit_vae

        if self.prior == "pca":
            return fit_pca(target.auxiliary, target.bounds, self.size, seed, place)
        return fit_vae(target.auxiliary, target.bounds, VAESettings(size=self.size), seed, place, progress)

    def _direction(
        self, module: torch.nn.Module, prior: Prior, views: Views, generator: torch.Generator, labels: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What z follows: what the model lacks to see the class through a random view, against what is unlikely."""
        from ._latent_search import against

        place = Place.of(module)

        def lack(z: torch.Tensor) -> torch.Tensor:
            maps = views.draw(len(z), place, generator)
            return lead_of_another(module(views.apply(prior.decode(z), maps)), labels)

        def unlikely(z: torch.Tensor) -> torch.Tensor:
            far = 0.5 * self.typicality * z.square().sum(dim=1)
            return far + self.total_variation * total_variation(prior.decode(z)) if self.total_variation else far

        return against(lack, unlikely)
