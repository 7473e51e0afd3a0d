"""The controls: models where the answer is known, so that the instrument is tested in the same run.

| attack | leaky twin (must be found) | null (must not be found) |
|---|---|---|
| membership | trained to memorise half of the records under random labels | never saw the records it is asked about |
| separation | many such models | the models' answers, in and out shuffled for each record |
| class inversion | trained on the members without any defense | trained on other records under shuffled labels |
| record inversion | trained on the members, releases every score | the subject's answers, shuffled within each class |

What an inversion attack meets besides, `inverting` tells.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .descent import fit
from .errors import NotMeasurable
from .plan import derive
from .recipe import Augmentation, OptimizerChoice, Recipe, Schedule
from .reference import complementary, samples, train_references
from .target import Exposure, Records, Release, Target, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from .reference import ReferenceModel, Report
    from .store import Store
    from .subject import Task

    Bench = Callable[[Release, Records | None, Callable[[], "torch.nn.Module"]], Target]

#: The twin memorises at most so many records: enough to tell, few enough for a small network.
_TWIN_RECORDS = 600
#: So many models at most the twin is held against: what finds its leak with these finds it with more.
_TWIN_REFERENCES = 8
#: It is not leaky before it has learnt this share of its random labels by heart.
_BY_HEART = 0.9
#: Auxiliary records a class below which a model that learnt from them could hardly tell anything of anybody.
_ENOUGH_A_CLASS = 10
#: Gradient steps of a control model.
_STEPS = 1600
#: Those of one at the beginning of its training; a whole pass over its records at least.
_EARLY = 20
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a membership attack is let loose: a model, records of both kinds, and models to hold it against.

    Attributes:
        module: The model.
        release: What it gives to whoever asks it.
        auxiliary: Records that the adversary owns.
        pool: The candidates.
        members: `(n,)` bool, which of them it was trained on.
        logits: `(n, classes)`, what it answers on them; `None` where nobody asked yet.
        references: The adversary's models.
        rows: `(n,)` int64, where the candidates stand in the pool of the references; `None` where that is the same.
    """

    module: Callable[[], torch.nn.Module]
    release: Release
    auxiliary: Records | None
    pool: Records
    members: NDArray[np.bool_]
    logits: NDArray[np.float64] | None = None
    references: tuple[ReferenceModel, ...] = ()
    rows: NDArray[np.int64] | None = None


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
        store: Where trained models are kept.
        report: Told how far a training is.
        pair: Two complementary models that were trained as the subject was, on the pool of members and nonmembers, and
            the other models that the attacks hold them against; empty where none can be trained.
        references: How many models the attacks hold the subject against.
    """

    recipe: Recipe
    task: Task
    release: Release
    members: Records
    nonmembers: Records | None
    auxiliary: Records | None
    seed: int
    bench: Bench
    store: Store
    report: Report
    pair: Callable[[], tuple[ReferenceModel, ...]] | None = None
    references: int = 0

    def membership_twin(self) -> tuple[Stage, ...]:
        """A model that knows half of the records by heart, under labels that nothing else could explain."""
        rng = np.random.default_rng(derive(self.seed, "membership twin"))
        pool = self._relabelled(joined(self.members, self.nonmembers), rng)
        order, size = rng.permutation(len(pool)), min(_TWIN_RECORDS, len(pool) // 2)
        while True:
            module = self._fit(pool.take(order[:size]), "membership twin", _STEPS)
            known = _accuracy(
                self.bench(Release(Exposure.LABEL), None, partial(_same, module)), pool.take(order[:size])
            )
            if known >= _BY_HEART or size < 2 * self.task.classes:
                break
            size //= 2
        members = np.isin(np.arange(len(pool)), order[:size])
        auxiliary = self.auxiliary and self._relabelled(self.auxiliary, rng)
        masks = samples(len(pool), min(self.references, _TWIN_REFERENCES), size, derive(self.seed, "twin references"))
        references = self._by_heart(pool, masks, "twin references")
        return (Stage(partial(_same, module), self.release, auxiliary, pool, members, None, references),)

    def separation_twin(self, count: int) -> Stage:
        """Models that know halves of the records by heart, under labels that nothing else could explain."""
        rng = np.random.default_rng(derive(self.seed, "separation twin"))
        everything = self._relabelled(joined(self.members, self.nonmembers), rng)
        pool = everything.take(rng.permutation(len(everything))[: 2 * _TWIN_RECORDS])
        masks = complementary(len(pool), count, derive(self.seed, "separation halves"))
        references = self._by_heart(pool, masks, "separation twin")
        members = np.ones(len(pool), dtype=bool)
        return Stage(references[0].module, self.release, None, pool, members, None, references)

    def membership_null(self) -> tuple[Stage, ...]:
        """Models that saw neither the members nor the nonmembers on which they are judged."""
        if self.pair is not None:
            return self._complements(*self.pair())
        if self.auxiliary is not None and len(self.auxiliary) >= _ENOUGH_A_CLASS * self.task.classes:
            module = self._fit(self.auxiliary, "membership null", _STEPS)
            inside, outside = self.members, _given(self.nonmembers)
        else:
            rng = np.random.default_rng(derive(self.seed, "membership null"))
            (seen_in, inside), (seen_out, outside) = _cut(self.members, rng), _cut(_given(self.nonmembers), rng)
            module = self._fit(joined(seen_in, seen_out), "membership null", _STEPS)
        members = np.arange(len(inside) + len(outside)) < len(inside)
        return (Stage(lambda: module, self.release, self.auxiliary, joined(inside, outside), members),)

    def _complements(self, first: ReferenceModel, second: ReferenceModel, *others: ReferenceModel) -> tuple[Stage, ...]:
        """Each of two complementary models, asked about what it never saw: together, every record once."""
        pool = joined(self.members, _given(self.nonmembers))
        return tuple(self._unseen(model, others, pool) for model in (first, second))

    def _unseen(self, model: ReferenceModel, others: tuple[ReferenceModel, ...], pool: Records) -> Stage:
        unseen = np.flatnonzero(~model.inside)
        members = unseen < len(self.members)
        logits = model.logits[unseen].astype(np.float64)
        return Stage(model.module, self.release, self.auxiliary, pool.take(unseen), members, logits, others, unseen)

    def inversion_twin(self) -> Target:
        """A model trained on the members without any defense, releasing every score.

        Where gradients pass by it is at the beginning of its training: of what is known by heart there is none left.
        """
        steps = _EARLY if self.release.exposes is Exposure.GRADIENTS else _STEPS
        module = self._fit(self.members, "inversion twin", steps)
        return self.bench(self.release.opened(), self.auxiliary, lambda: module)

    def inversion_null(self) -> Target:
        """A model trained on other records under shuffled labels: no class of it looks like anything."""
        rng = np.random.default_rng(derive(self.seed, "inversion null"))
        others = joined(_given(self.nonmembers), self.auxiliary)
        shuffled = Records(others.x, rng.permutation(others.y))
        module = self._fit(shuffled, "inversion null", _STEPS)
        return self.bench(self.release.opened(), self.auxiliary, lambda: module)

    def inversion_without(self, classes: NDArray[np.int64]) -> Target:
        """A model trained on other records, none of them of these classes."""
        others = joined(_given(self.nonmembers), self.auxiliary)
        left = others.take(np.flatnonzero(~np.isin(others.y, classes)))
        if not len(left):
            raise NotMeasurable("without these classes there is no record left to train a model on")
        module = self._fit(left, f"inversion without {classes.tolist()}", _STEPS)
        return self.bench(self.release.opened(), self.auxiliary, lambda: module)

    def inversion_untrained(self, release: Release) -> Target:
        """The subject's network with random weights."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "untrained"))
            module = self.recipe.architecture.build(self.task.shape, self.task.classes)
        return self.bench(release, self.auxiliary, lambda: module)

    def _fit(self, records: Records, name: str, steps: int) -> torch.nn.Module:
        return fit(self._lasting(len(records), steps), records, derive(self.seed, name)).module

    def _by_heart(self, pool: Records, masks: NDArray[np.bool_], name: str) -> tuple[ReferenceModel, ...]:
        """One undefended model for each mask."""
        if not len(masks):
            return ()
        recipe = self._lasting(int(masks[0].sum()), _STEPS)
        return train_references(recipe, pool, masks, derive(self.seed, name), self.store, self.report).models

    def _lasting(self, records: int, steps: int) -> Recipe:
        """The recipe with as many epochs as take about so many steps."""
        return dataclasses.replace(self.recipe, epochs=max(1, steps // -(-records // _BATCH)))

    def _relabelled(self, records: Records, rng: np.random.Generator) -> Records:
        return dataclasses.replace(records, y=rng.integers(0, self.task.classes, size=len(records)))


def undefended(recipe: Recipe) -> Recipe:
    """The recipe with every defense removed: from scratch, no mechanism, no augmentation, no decay, no dropout."""
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
        initial=None,
        pretraining=None,
        freeze=(),
        search=None,
    )


def shuffled_within(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A permutation that moves every position to another one of the same label where there is one."""
    rng = np.random.default_rng(seed)
    moved = np.arange(len(labels))
    for label in np.unique(labels):
        here = rng.permutation(np.flatnonzero(labels == label))
        moved[here] = np.roll(here, 1)
    return moved


def _same(module: torch.nn.Module) -> torch.nn.Module:
    return module


def _cut(records: Records, rng: np.random.Generator) -> tuple[Records, Records]:
    order = rng.permutation(len(records))
    return records.take(order[: len(order) // 2]), records.take(order[len(order) // 2 :])


def _given(records: Records | None) -> Records:
    if records is None:
        raise ValueError("this control needs nonmembers (spec.data.nonmembers)")
    return records


def _accuracy(target: Target, records: Records) -> float:
    return float((target.query(records.x).argmax(axis=1) == records.y).mean())
