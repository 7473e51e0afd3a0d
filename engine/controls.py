"""The controls: models where the answer is known, so that the instrument is tested in the same run.

| attack | leaky twin (must be found) | null (must not be found) |
|---|---|---|
| membership | trained to memorise half of the records under random labels | never saw members or nonmembers |
| class inversion | trained on the members without any defense | trained on other records under shuffled labels |
| record inversion | trained on the members, releases every score | the subject's answers, shuffled within each class |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .plan import derive
from .recipe import Augmentation, OptimizerChoice, Recipe, Schedule
from .target import Exposure, Records, Release, Target
from .training import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from .subject import Task

    Bench = Callable[[Release, Records | None, "torch.nn.Module"], Target]

#: The twin memorises at most so many records: enough to tell, few enough for a small network.
_TWIN_RECORDS = 600
#: It is not leaky before it has learnt this share of its random labels by heart.
_BY_HEART = 0.9
#: Auxiliary records a class below which a model that learnt from them could hardly tell anything of anybody.
_ENOUGH_A_CLASS = 10
#: Gradient steps of a control model.
_STEPS = 1600
_BATCH = 64


@dataclass(frozen=True, slots=True)
class MembershipControl:
    """A model with records inside and outside, where the answer is known.

    Attributes:
        target: The model as the adversary sees it.
        inside: Records that count as members.
        outside: Records that do not.
    """

    target: Target
    inside: Records
    outside: Records


@dataclass(frozen=True, slots=True)
class Controls:
    """Trains the control models of one subject.

    Attributes:
        recipe: Undefended training of the subject's network.
        task: What the model does.
        release: What the subject's release exposes.
        members: The subject's training records.
        nonmembers: Records of the same source.
        auxiliary: The adversary's records, if any.
        seed: What every control's randomness is derived from.
        bench: Makes a target from a release, auxiliary records and a module.
    """

    recipe: Recipe
    task: Task
    release: Release
    members: Records
    nonmembers: Records | None
    auxiliary: Records | None
    seed: int
    bench: Bench

    def membership_twin(self) -> MembershipControl:
        """A model that knows half of the records by heart, under labels that nothing else could explain."""
        rng = np.random.default_rng(derive(self.seed, "membership twin"))
        pool = _join(self.members, self.nonmembers)
        pool = Records(pool.x, rng.integers(0, self.task.classes, size=len(pool)))
        order, size = rng.permutation(len(pool)), min(_TWIN_RECORDS, len(pool) // 2)
        while True:
            inside = pool.take(order[:size])
            module = self._fit(inside, "membership twin", _STEPS)
            known = _accuracy(self.bench(Release(Exposure.LABEL), None, module), inside)
            if known >= _BY_HEART or size < 2 * self.task.classes:
                break
            size //= 2
        auxiliary = self.auxiliary and Records(
            self.auxiliary.x, rng.integers(0, self.task.classes, size=len(self.auxiliary))
        )
        target = self.bench(self.release.opened(), auxiliary, module)
        return MembershipControl(target, inside, pool.take(order[size:]))

    def membership_null(self) -> MembershipControl:
        """A model that saw neither the members nor the nonmembers on which it is judged."""
        if self.auxiliary is not None and len(self.auxiliary) >= _ENOUGH_A_CLASS * self.task.classes:
            module = self._fit(self.auxiliary, "membership null", _STEPS)
            inside, outside = self.members, _given(self.nonmembers)
        else:
            rng = np.random.default_rng(derive(self.seed, "membership null"))
            (seen_in, inside), (seen_out, outside) = _cut(self.members, rng), _cut(_given(self.nonmembers), rng)
            module = self._fit(_join(seen_in, seen_out), "membership null", _STEPS)
        return MembershipControl(self.bench(self.release, self.auxiliary, module), inside, outside)

    def inversion_twin(self) -> Target:
        """A model trained on the members without any defense, releasing every score."""
        return self.bench(self.release.opened(), self.auxiliary, self._fit(self.members, "inversion twin", _STEPS))

    def inversion_null(self) -> Target:
        """A model trained on other records under shuffled labels: no class of it looks like anything."""
        rng = np.random.default_rng(derive(self.seed, "inversion null"))
        others = _join(_given(self.nonmembers), self.auxiliary)
        shuffled = Records(others.x, rng.permutation(others.y))
        return self.bench(self.release.opened(), self.auxiliary, self._fit(shuffled, "inversion null", _STEPS))

    def _fit(self, records: Records, name: str, steps: int) -> torch.nn.Module:
        epochs = max(1, steps // -(-len(records) // _BATCH))
        return fit(dataclasses.replace(self.recipe, epochs=epochs), records, derive(self.seed, name)).module


def undefended(recipe: Recipe) -> Recipe:
    """The recipe with every defense removed: no mechanism, no augmentation, no decay, no dropout."""
    architecture = recipe.architecture
    if "dropout" in {field.name for field in dataclasses.fields(architecture)}:  # type: ignore[arg-type]
        architecture = dataclasses.replace(architecture, dropout=0.0)  # type: ignore[type-var]
    return dataclasses.replace(
        recipe,
        architecture=architecture,
        defense=None,
        augmentation=Augmentation(),
        schedule=Schedule("cosine"),
        optimizer=OptimizerChoice("adam", lr=3e-3),
        batch_size=_BATCH,
    )


def shuffled_within(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A permutation that moves every position to another one of the same label where there is one."""
    rng = np.random.default_rng(seed)
    moved = np.arange(len(labels))
    for label in np.unique(labels):
        here = rng.permutation(np.flatnonzero(labels == label))
        moved[here] = np.roll(here, 1)
    return moved


def _join(first: Records, second: Records | None) -> Records:
    if second is None:
        return first
    return Records(np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y]))


def _cut(records: Records, rng: np.random.Generator) -> tuple[Records, Records]:
    order = rng.permutation(len(records))
    return records.take(order[: len(order) // 2]), records.take(order[len(order) // 2 :])


def _given(records: Records | None) -> Records:
    if records is None:
        raise ValueError("this control needs nonmembers (spec.data.nonmembers)")
    return records


def _accuracy(target: Target, records: Records) -> float:
    return float((target.query(records.x).argmax(axis=1) == records.y).mean())
