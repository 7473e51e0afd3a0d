"""Gradient leakage: from the gradient that a participant of federated training sends back to his records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import ThreatModel
from ...engine.errors import AttackError
from ...engine.observation import Goal
from ...engine.target import Access, Exposure

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._gradients import Shown

#: A guess whose gradient is as near in direction as this (one less the cosine) is the record, but for rounding.
_EXPLAINED = 1e-6
#: How far a start is from the mean of its class: two records of a class must not start alike.
_UNLIKE_THE_MEAN = 0.1
#: How often at most two records of a batch are tried with each other's class.
_SWAPS = 64


@dataclass(frozen=True, slots=True)
class GradientLeakage:
    """Reconstructs records from their gradient: in closed form behind a dense layer, or by matching it.

    The label is read off the gradient of the last layer. Where the first layer is dense, its gradient over that of its
    bias is the record itself. Otherwise, and beside it, records are looked for whose gradient points the same way
    (inverting gradients), from several starts: the first, where he owns records, is the mean of those of the class that
    he read off. Which guess is kept decides how well its gradient matches what was seen.

    Attributes:
        steps: Steps of the search.
        restarts: Starts for each batch.
        learning_rate: Adam's step, as a share of the range of values; it falls tenfold after three and five eighths and
            seven eighths of the steps.
        total_variation: Weight of the differences between neighbours, each averaged over the image.
        victims: Records that are reconstructed at most.
    """

    steps: int = 400
    restarts: int = 1
    learning_rate: float = 0.02
    total_variation: float = 3e-3
    victims: int = 100

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset({Exposure.GRADIENTS}),
        knowledge=("the gradient that the records were sent as", "the model that it was computed on"),
        goal=Goal.RECORD,
        watches=frozenset({Exposure.GRADIENTS}),
    )
    source: ClassVar[str] = (
        "matching: Zhu et al. 2019, arXiv 1906.08935, and Geiping et al. 2020, arXiv 2003.14053; labels: Zhao et al. "
        "2020, arXiv 2001.02610; dense layers: Phong et al. 2018"
    )
    thorough: ClassVar[Mapping[str, object]] = {"steps": 2400, "restarts": 8, "victims": 500}

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "victims"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"expected learning_rate={self.learning_rate} > 0")
        if not 0 <= self.total_variation < float("inf"):
            raise ValueError(f"expected total_variation={self.total_variation} >= 0")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One forward and backward pass per record, restart and step, and some for the closed form."""
        return targets * (self.restarts * (self.steps + 1) + 2 + _SWAPS)

    def reconstruct_records(
        self, target: Target, outputs: NDArray[float64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct the records behind these gradients.

        Args:
            target: The adversary must hold its weights.
            outputs: `(r, n / batch, parameters)`, in the order of the model's parameters; the mean over r is used.
            seed: Of the starts.
            progress: Told the share of the work that is done.

        Returns:
            `(n, *shape)`, within the bounds, batch by batch; NaN where a gradient is not finite.

        Raises:
            AccessError: The adversary does not hold the weights.
            AttackError: The gradients are not those of this model.
        """
        import numpy as np
        import torch

        from ._gradients import Shown

        module, seen = target.module(), outputs.mean(axis=0)
        known = np.isfinite(seen).all(axis=1)
        size = sum(p.numel() for p in module.parameters())
        if seen.shape[1] != size:
            raise AttackError(f"expected gradients of {size} parameters, found {seen.shape[1]}")
        found = np.full((len(seen), target.release.batch, *target.shape), np.nan, dtype=np.float32)
        if known.any():
            shown = Shown.of(module, target, seen[known])
            with torch.enable_grad():
                found[known] = self._best(shown, target.auxiliary, seed, progress)
        progress(1.0)
        return found.reshape(-1, *target.shape)

    def _best(self, shown: Shown, owned: Records | None, seed: int, progress: Progress) -> NDArray[float32]:
        """Of each batch the guess whose gradient matches best. Returns: `(batches, batch, *shape)`."""
        import torch

        found = shown.closed_form()
        shown = shown.dealt(found, _SWAPS)
        missed = shown.missed(found)
        # Where the closed form explains what was seen, nothing is left to look for.
        open_ones = torch.nonzero(missed > _EXPLAINED)[:, 0]
        rest, generator = shown.take(open_ones), shown.place.generator(seed)
        for restart in range(self.restarts if len(open_ones) else 0):
            start = torch.rand(rest.shape, generator=generator, device=rest.place.device, dtype=rest.place.dtype)
            if owned is not None and not restart:
                start = rest.class_means(owned).lerp(start, _UNLIKE_THE_MEAN)
            guess = self._match(rest, start, partial(_part, progress, restart, self.restarts))
            again = rest.missed(guess)
            better = again < missed[open_ones]
            found[open_ones[better]], missed[open_ones[better]] = guess[better], again[better]
        low, high = shown.bounds
        records: NDArray[float32] = (low + (high - low) * found).to("cpu", torch.float32).numpy()
        return records

    def _match(self, shown: Shown, start: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Descend on the angle between gradients, by the signs of its slope (Geiping et al., eq. 4)."""
        import torch

        from ._white_box import total_variation

        x = start.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=self.learning_rate)
        falls = [int(self.steps * share) for share in (3 / 8, 5 / 8, 7 / 8)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, falls, gamma=0.1)
        values = x[0, 0].numel()
        for step in range(self.steps):
            rough = total_variation(x.flatten(0, 1)).sum() / values
            loss = shown.angle(x).sum() + self.total_variation * rough
            (slope,) = torch.autograd.grad(loss, x)
            x.grad = slope.sign()
            adam.step()
            schedule.step()
            x.data.clamp_(0.0, 1.0)
            progress((step + 1) / self.steps)
        return x.detach()


def _part(progress: Progress, done: int, restarts: int, share: float) -> None:
    progress((done + share) / restarts)
