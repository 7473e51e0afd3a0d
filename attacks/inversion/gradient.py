"""The strong white-box inversion that needs no records: what an adversary with the weights can do in a minute.

Its parts are those that made later attacks strong at little cost: a max-margin loss (PLG-MI), total variation, random
views at every step, restarts, and selection of the restart that the model recognises through most random views (PPA).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure
from ._white_box import (
    Place,
    Views,
    best_restarts,
    confidence,
    gradient_at,
    lead_of_another,
    total_variation,
)

if TYPE_CHECKING:
    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target


#: What is descended on: the lead of another class's logit, or the cross-entropy.
_Loss = Literal["margin", "ce"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Optimises records until the model recognises the class in many views of them (max-margin).

    The gradient of the loss is divided by the largest that the row has met, so that neither the scale of the logits nor
    the size of the image decides how much the total variation counts.

    Attributes:
        loss: `margin`, the largest logit of another class minus the class's own; or `ce`, cross-entropy, which fades
            once the model is sure, so that the total variation should weigh a hundredth.
        steps: Adam steps.
        learning_rate: Adam's step, as a share of the range of values.
        total_variation: Weight of the differences between neighbours.
        restarts: Random starts per class; one of them is selected.
        transforms: Random views through which the restarts are compared.
        shift: Furthest shift of a view, as a share of the side.
        scale: Largest change of size of a view, as a share of the side.
        flip: Whether half of the views are mirrored.
    """

    loss: _Loss = "margin"
    steps: int = 300
    learning_rate: float = 0.05
    total_variation: float = 0.1
    restarts: int = 5
    transforms: int = 100
    shift: float = 0.05
    scale: float = 0.05
    flip: bool = False

    source: ClassVar[str] = (
        "after Fredrikson, Jha and Ristenpart, CCS 2015; max-margin loss: Yuan et al. 2023, arXiv 2302.09814; "
        "selection over random views: Struppek et al. 2022, arXiv 2201.12179"
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the class label",),
        goal=Goal.CLASS,
    )

    def __post_init__(self) -> None:
        if self.loss not in get_args(_Loss):
            raise ValueError(f"expected loss={self.loss!r} to be one of {', '.join(get_args(_Loss))}")
        for name in ("steps", "restarts", "transforms"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"expected learning_rate={self.learning_rate} > 0")
        if not 0 <= self.total_variation < float("inf"):
            raise ValueError(f"expected total_variation={self.total_variation} >= 0")
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
            target: The adversary must hold its weights.
            classes: `(k,)`.
            seed: Decides starts and views.
            progress: Told the share of the steps that are done.

        Returns:
            `(k, *shape)`: of each class the restart that the model recognises best, within the bounds.

        Raises:
            AccessError: The adversary does not hold the weights.
        """
        module = target.module()
        place = Place.of(module)
        generator = place.generator(seed)
        views = Views(self.shift, self.scale, self.flip)
        seen = views.draw(self.transforms, place, generator)  # the same views for every restart

        def attempt(labels: torch.Tensor, progress: Progress) -> torch.Tensor:
            return self._optimise(module, target, labels, views, generator, progress)

        def score(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return confidence(module, images, labels, views, seen)

        return best_restarts(classes, self.restarts, place, target.shape, attempt, score, progress)

    def _optimise(
        self,
        module: torch.nn.Module,
        target: Target,
        labels: torch.Tensor,
        views: Views,
        generator: torch.Generator,
        progress: Progress,
    ) -> torch.Tensor:
        """Descend from uniform noise. Returns: `(n, *shape)`, one row for each label."""
        import torch

        place, (low, high) = Place.of(module), target.bounds
        start = torch.rand((len(labels), *target.shape), generator=generator, device=place.device, dtype=place.dtype)
        x = low + (high - low) * start
        optimiser = torch.optim.Adam([x], lr=self.learning_rate * (high - low))
        steepest = torch.zeros(len(x), *(1 for _ in target.shape), device=place.device, dtype=place.dtype)
        for step in range(self.steps):
            maps = views.draw(len(x), place, generator)
            slope = gradient_at(x, partial(self._lack, module, views, maps, labels)).gradient
            steepest = torch.maximum(steepest, _size(slope))
            rough = gradient_at(x, total_variation).gradient
            x.grad = slope / steepest.clamp_min(torch.finfo(place.dtype).tiny) + self.total_variation * rough
            optimiser.step()
            x.clamp_(low, high)
            progress((step + 1) / self.steps)
        return x

    def _lack(
        self, module: torch.nn.Module, views: Views, maps: torch.Tensor, labels: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """What each row lacks to be seen as its class through its view. Args: x `(n, *shape)`. Returns: `(n,)`."""
        from torch.nn.functional import cross_entropy

        logits: torch.Tensor = module(views.apply(x, maps))
        if self.loss == "ce":
            return cross_entropy(logits, labels, reduction="none")
        return lead_of_another(logits, labels)


def _size(gradient: torch.Tensor) -> torch.Tensor:
    """Root mean square of each row, shaped to divide it. Args: gradient `(n, *shape)`. Returns: `(n, 1, ...)`."""
    return gradient.square().mean(dim=tuple(range(1, gradient.dim())), keepdim=True).sqrt()
