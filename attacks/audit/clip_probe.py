"""The clip probe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import Batch, Found, Observer
from ...engine.ledger import Planted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from ...engine.audit import Claimed, Planned, Training, Twin
    from ...engine.defenses import StepSeen

#: The probe's own gradient is at least so many times as long as it may count, or the run says nothing.
_LOUD = 5.0
_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
#: By how much float32 sums may be off, in clipping norms: always, and for each record of the step.
_ROUNDING, _ROUNDING_EACH = 0.01, 1e-4


@dataclass(frozen=True, slots=True)
class ClipProbe:
    """Whether a record with a huge gradient moves the sum of a step by at most the clipping norm.

    In a few steps, drawn beforehand, it stands in for a record of the sample. The same step is then computed again
    without it, record by record and by plain backpropagation; what is left of the sum is what the probe moved.

    Attributes:
        steps: In how many steps.
    """

    steps: int = 3

    source: ClassVar[str] = "Abadi et al. 2016, arXiv 1607.00133, algorithm 1: each gradient is clipped by itself"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected steps={self.steps} >= 1")

    def plan(self, planned: Planned) -> Observer:
        """The steps are drawn when it is known how many there are."""
        return _Prober(self, planned)


@dataclass(frozen=True, slots=True)
class _Probed:
    """A step with a probe in it.

    Attributes:
        twin: The model as it was before the step.
        batch: The step's records, the probe among them.
        position: Where the probe stands.
        loudness: Norm of its gradient over the clipping norm.
    """

    twin: Twin
    batch: Batch
    position: int
    loudness: float


@dataclass(frozen=True, slots=True)
class _Moved:
    """What a probe did. Attributes: norms: how far it moved the sum; allowed: at most so far; loudness: see above."""

    norms: float
    allowed: float
    loudness: float


@dataclass
class _Prober(Observer):
    """Puts the probe in, and computes the same step again without it."""

    test: ClipProbe
    plan: Planned
    training: Training | None = None
    chance: np.random.Generator | None = None
    due: list[int] = field(default_factory=list)
    probed: _Probed | None = None
    moved: list[_Moved] = field(default_factory=list)

    def begins(self, training: Training) -> None:
        """Draw the steps."""
        self.training, self.chance = training, self.plan.chance()
        steps = training.event.steps
        self.due = sorted(self.chance.choice(steps, size=min(self.test.steps, steps), replace=False))

    def before(self, step: int, norm: float, batch: Batch) -> Batch:
        """Put the probe in, where it is time and there is a record to stand in for."""
        self.probed = None
        if not self.due or step < self.due[0] or len(batch.y) == 0 or self.training is None or self.chance is None:
            return batch
        self.due.pop(0)
        position, twin = int(self.chance.integers(len(batch.y))), self.training.twin()
        x, y, loudness = _probe(twin, self.plan, self.chance, norm)
        changed = Batch(batch.x.clone(), batch.y.clone())
        changed.x[position], changed.y[position] = x, y
        self.probed = _Probed(twin, changed, position, loudness)
        return changed

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Compute the step again without the probe, and keep what is left of the sum."""
        probed, self.probed = self.probed, None
        if probed is None:
            return
        left = _flat(seen.sums) - _clipped_sum(probed, seen.clipping_norm)
        if contributed is not None:
            left -= _flat(contributed)
        allowed = 1 + _ROUNDING + _ROUNDING_EACH * len(probed.batch.y)
        self.moved.append(_Moved(float(left.norm()) / seen.clipping_norm, allowed, probed.loudness))
        self.planted = Planted(probes=len(self.moved))

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """How far the probes moved the sum at most, in clipping norms."""
        if not self.moved:
            return Found(math.nan, math.nan, False, "no step had a record to stand in for")
        if any(_drops(layer) for layer in module.modules()):
            return Found(math.nan, math.nan, False, "the model drops values by chance: no step can be computed again")
        over = [moved for moved in self.moved if not moved.norms <= moved.allowed]
        worst = max(over or self.moved, key=lambda moved: moved.norms)
        detail = f"a record with a gradient {worst.loudness:.3g} times as long as the clipping norm moved the sum by "
        detail += f"{worst.norms:.4g} clipping norms"
        return Found(worst.norms, 0.0 if over else 1.0, worst.loudness >= _LOUD, detail)


def _drops(layer: torch.nn.Module) -> bool:
    """Whether it is a dropout layer that drops anything."""
    return type(layer).__module__ == "torch.nn.modules.dropout" and float(getattr(layer, "p", 0.0)) > 0


def _probe(
    twin: Twin, plan: Planned, chance: np.random.Generator, norm: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A record far from all others, of the class that the model thinks of last, and how loud it is."""
    import numpy as np
    import torch

    corner = torch.from_numpy(chance.choice(np.array(plan.bounds, dtype=np.float32), size=plan.shape))
    for scale in _SCALES:
        x = corner * scale
        with torch.no_grad():
            y = twin.module(x[None]).argmin(dim=1)[0]
        loudness = float(twin.gradient(x, y).norm()) / norm
        if loudness >= 2 * _LOUD:
            break
    return x, y, loudness


def _clipped_sum(probed: _Probed, norm: float) -> torch.Tensor:
    """The sum over all records but the probe, each clipped by itself; one that is not finite counts as zero."""
    import torch

    total = torch.zeros(sum(p.numel() for p in probed.twin.parameters), dtype=torch.float64)
    for i, (x, y) in enumerate(zip(probed.batch.x, probed.batch.y, strict=True)):
        gradient = probed.twin.gradient(x, y)
        if i != probed.position and bool(gradient.isfinite().all()):
            total += gradient * min(1.0, norm / max(float(gradient.norm()), 1e-300))
    return total


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One vector, float64."""
    import torch

    return torch.cat([part.detach().flatten().double() for part in parts])
