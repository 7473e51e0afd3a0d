"""What accountants account for: steps of one kind, each as the two Gaussian mixtures that are told apart best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ledger import Adjacency, Ledger, SampledGaussian, Unit


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one kind, in units of the clipping norm.

    With noise σ, sampling probability q and k records of one unit, a step without the unit is N(0, σ²) and one with it
    Σ_i Bin(i; k, q) N(i, σ²) at worst (Ganesh 2024, arXiv 2401.10294); where other records take its place
    they point the other way at worst: Σ_i Bin(i; k, q) N(-i, σ²).

    Attributes:
        noise: Standard deviation σ over the clipping norm.
        probability: q of each record; 1 where sampling may not be counted.
        count: How many steps.
        group: k, the most records of one unit.
        replaced: Whether neighbours have other records in the unit's place, or none.
    """

    noise: float
    probability: float
    count: int
    group: int
    replaced: bool

    @property
    def shift(self) -> int:
        """How far the unit can move a step in which all of its records take part."""
        return self.group * (2 if self.replaced else 1)

    @property
    def plain(self) -> bool:
        """Whether every step is an unsampled Gaussian mechanism."""
        return self.probability == 1

    @property
    def mu(self) -> float:
        """μ of the steps together if they are plain, else an upper bound (Dong et al. 2019, arXiv 1905.02383)."""
        return self.shift * math.sqrt(self.count) / self.noise


def steps_of(ledger: Ledger) -> tuple[Steps, ...] | None:
    """The ledger's steps, each kind once; `None` where it holds anything else than noisy sums."""
    sums = [event for event in ledger.events if isinstance(event, SampledGaussian)]
    return merged([steps_in(event, ledger) for event in sums]) if len(sums) == len(ledger.events) else None


def merged(steps: list[Steps]) -> tuple[Steps, ...]:
    """The same steps, fewer entries: equal ones are counted together, and plain Gaussians are one with less noise."""
    counts: dict[Steps, int] = {}
    for entry in (entry for entry in steps if not entry.plain):
        kind = replace(entry, count=1)
        counts[kind] = counts.get(kind, 0) + entry.count
    plain = [entry for entry in steps if entry.plain]
    if plain:
        counts[replace(plain[0], noise=plain[0].shift / math.hypot(*(entry.mu for entry in plain)), count=1)] = 1
    return tuple(replace(kind, count=count) for kind, count in counts.items())


def steps_in(event: SampledGaussian, ledger: Ledger) -> Steps:
    """One event's steps for the unit and adjacency of a ledger.

    Where nothing shows that samples were Poisson, each record is in one step of every pass over the records, and no
    more is known: as many plain Gaussians as there were passes (composition in which a record meets each of them once).
    """
    probability, count = (event.sampling_probability, event.steps) if event.amplified else (1.0, event.uses)
    group = ledger.largest_group if ledger.unit is Unit.PERSON else 1
    return Steps(
        event.effective_noise_multiplier, probability, count, group, replaced=ledger.adjacency is Adjacency.REPLACE
    )
