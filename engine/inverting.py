"""Letting an inversion attack loose: on the subject, and wherever the answer is known.

| role | a class attack meets | a record attack meets |
|---|---|---|
| subject | the model | the model |
| twin | a model trained on the members without any defense | the same, releasing every score |
| null | a model trained on other records under shuffled labels | the subject's answers, shuffled within each class |
| untrained | a model with random weights | the same: what its numbers tell of any record |
| without the class | models that never saw the class | |
| nonmembers | what it drew of the subject, held against records that it never saw | such records as victims |
| label-only floor | | a release that exposes the label alone: what no defense of the answers can beat |

An attack on an update meets the two snapshots; the twin and the null are other updates (`observe_update`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .attack import ClassInversion, RecordInversion, UpdateInversion
from .controls import shuffled_within
from .errors import AttackError, NotMeasurable
from .judges import judge_classes, judge_records, judge_updates
from .observation import Goal, Observation, Reconstruction
from .plan import CLASS_NULLS, UNTRAINED, WITHOUT, derive
from .target import PASSING, Access, Exposure, Previous, Records, Release, Target, joined
from .updates import updated

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .attack import Progress
    from .plan import Job
    from .run import Bench

SUBJECT, TWIN, NULL = "subject", "twin", "null"
#: The subject with its release's defense taken away; no verdict rests on it.
OPENED = "open"
NONMEMBERS, FLOOR = "nonmembers", "label-only floor"


def further_roles(job: Job, release: Release) -> tuple[str, ...]:
    """Where else an inversion attack is let loose, besides the subject, the twin and the null."""
    goal = job.attack.threat.goal
    if goal is Goal.CLASS:
        return (UNTRAINED, WITHOUT, NONMEMBERS)
    if goal is Goal.RECORD:
        return (UNTRAINED, NONMEMBERS) if release.exposes in PASSING else (UNTRAINED, NONMEMBERS, FLOOR)
    return ()


# --- classes ---------------------------------------------------------------------------------------------------------


def observe_classes(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    """What a class attack draws in a role, judged."""
    nothing = _class_images(bench, job, NULL, progress)[1], _class_images(bench, job, WITHOUT, progress)[1]
    target, images = _class_images(bench, job, SUBJECT if role == NONMEMBERS else role, progress)
    if role in {NULL, *CLASS_NULLS}:
        # What a model without these classes yields, and the same pictures held against other classes.
        return target, _judged(bench, job, images, np.roll(images, 1, axis=0))
    real = bench.records.nonmembers if role == NONMEMBERS else bench.records.members
    return target, _judged(bench, job, images, np.concatenate(nothing), real)


def _judged(
    bench: Bench,
    job: Job,
    images: NDArray[np.float32],
    nothing: NDArray[np.float32],
    real: Records | None = None,
) -> Reconstruction:
    """Args: real, the records that the pictures are held against; `None` for the members."""
    held = real if real is not None else bench.records.members
    if held is None:
        raise NotMeasurable("the subject does not name the records that this needs")
    return judge_classes(images, bench.classes, held, bench.evaluators, bench.records.auxiliary, nothing, job.seed)


def _class_images(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, NDArray[np.float32]]:
    """What an attack draws of every class in a role; drawn once for a job."""
    name = f"{role} {job.identity}"
    if name not in bench.drawn:
        attack, classes = _class_attack(job), bench.classes
        images = np.zeros((len(classes), *bench.subject.task.shape), dtype=np.float32)
        for target, at in _class_targets(bench, role):
            if at.any():
                drawn = np.asarray(attack.reconstruct_classes(target, classes[at], job.seed, progress))
                images[at] = _whole(drawn, (int(at.sum()), *images.shape[1:]))
        bench.drawn[name] = (target, images)
    return bench.drawn[name]


def _whole(images: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The pictures, one for each target: what is one for all would be repeated without a word, what is more cut off."""
    if images.shape != shape:
        raise AttackError(f"expected reconstructions of shape {shape}, found {images.shape}")
    return images


def _class_targets(bench: Bench, role: str) -> list[tuple[Target, NDArray[np.bool_]]]:
    """The models of a role, each with the classes that are attacked on it."""
    every = np.ones(len(bench.classes), dtype=bool)
    if role == WITHOUT:
        rng = np.random.default_rng(derive(bench.plan.seed, WITHOUT))
        first = rng.permutation(len(every)) < len(every) // 2
        halves = [first, ~first]
        return [(bench.inversion_without(bench.classes[half]), half) for half in halves]
    return [(_class_target(bench, role), every)]


def _class_target(bench: Bench, role: str) -> Target:
    """The one model of a role; any other role is the subject's, behind its release or an open one."""
    if role == UNTRAINED:
        return bench.inversion_untrained(bench.subject.release.opened())
    if role == TWIN:
        return bench.inversion_twin
    return bench.inversion_null if role == NULL else bench.target_in(role)


def _class_attack(job: Job) -> ClassInversion:
    if not isinstance(job.attack, ClassInversion):
        raise TypeError(f"{job.name} aims at {job.attack.threat.goal} but is no ClassInversion")
    return job.attack


# --- records ---------------------------------------------------------------------------------------------------------


def observe_records(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    """What a record attack draws in a role, judged."""
    victims = bench.victims(job.targets)
    if role == NONMEMBERS:
        victims = _others(bench, job)
    target, images = record_images(bench, job, SUBJECT if role == NULL else role, progress)
    if role == NULL:
        # Each reconstruction is held against another record of the same class: it can tell nothing but the class.
        images = images[shuffled_within(victims.y, job.seed)]
    bounds, batch = bench.subject.task.bounds, batch_of(bench, job)
    return target, judge_records(images, victims, bench.records.auxiliary, bounds, batch, job.seed)


def batch_of(bench: Bench, job: Job) -> int:
    """How many consecutive reconstructions name no target: the batch of a gradient."""
    return bench.subject.release.batch if job.attack.threat.watches else 1


def _others(bench: Bench, job: Job) -> Records:
    """As many nonmembers as there are victims, or all there are; whole batches of them.

    Raises:
        NotMeasurable: There are none.
    """
    others = bench.records.nonmembers
    if others is None or len(others) < batch_of(bench, job):
        raise NotMeasurable("the subject names no nonmembers (spec.data.nonmembers)")
    count = min(job.targets, len(others))
    order = np.random.default_rng(derive(bench.plan.seed, "other victims")).permutation(len(others))
    return others.take(np.sort(order[: count - count % batch_of(bench, job)]))


def record_images(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, NDArray[np.float32]]:
    """What an attack draws of the victims in a role, drawn once; of the subject, of the nonmembers in one go."""
    name, beside = f"{role} {job.identity}", f"{NONMEMBERS} {job.identity}"
    if role == NONMEMBERS and name not in bench.drawn:
        _others(bench, job)  # says what is missing
        bench.drawn.pop(f"{SUBJECT} {job.identity}", None)
        record_images(bench, job, SUBJECT, progress)
    if name not in bench.drawn:
        attack, target, victims = job.attack, _record_target(bench, role), bench.victims(job.targets)
        if not isinstance(attack, RecordInversion):
            raise TypeError(f"{job.name} aims at {attack.threat.goal} but is no RecordInversion")
        both = role == SUBJECT and bench.records.nonmembers is not None
        everybody = joined(victims, _others(bench, job)) if both else victims
        outputs = looked_at(target, job, everybody)
        drawn = np.asarray(attack.reconstruct_records(target, outputs, job.seed, progress))
        images = _whole(drawn, everybody.x.shape)
        bench.drawn[name] = (target, images[: len(victims)])
        if both:
            bench.drawn[beside] = (target, images[len(victims) :])
    return bench.drawn[name]


def _record_target(bench: Bench, role: str) -> Target:
    """The model of a role, as this adversary sees it."""
    if role == TWIN:
        return bench.inversion_twin
    if role == UNTRAINED:
        return bench.inversion_untrained(bench.subject.release)
    if role == FLOOR:
        target = bench.target_of(Release(Exposure.LABEL), bench.records.auxiliary, lambda: bench.module)
        target.access = Access.RELEASE
        return target
    return bench.target_in(role)


def looked_at(target: Target, job: Job, victims: Records) -> NDArray[np.float64]:
    """What the adversary sees of the victims, as often as he sees it. Returns: `(r, n, d)`."""
    watches = bool(job.attack.threat.watches)
    noisy = target.release.noisy if watches else target.noisy
    looks = range(job.repeats if noisy else 1)
    return np.stack([target.observe(victims.x, victims.y) if watches else target.query(victims.x) for _ in looks])


# --- updates ---------------------------------------------------------------------------------------------------------

#: The leaky twin learns from its update so many times as often as the subject did.
_MORE = 5
#: Of how many classes its records are, as far as there are enough of them.
_FEW = 3


def observe_update(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    """What an attack tells of the last update in a role, judged.

    The twin is an update of the same snapshot by records that the subject never saw, which are learnt more often; the
    null is what the attack tells of another such update, held against the records of the real one.
    """
    update, others = _update_of(bench), _another_update(bench, job)
    release = bench.subject.release.opened() if role in {TWIN, OPENED} else bench.subject.release
    recipe = bench.update_recipe
    if role == TWIN:
        recipe = dataclasses.replace(recipe, epochs=_MORE * recipe.epochs)
    real = role not in {TWIN, NULL}

    def after() -> torch.nn.Module:
        if real:
            return bench.module
        return updated(bench.previous_module, others.x, others.y, recipe, job.seed)

    target = bench.target_of(release, bench.records.auxiliary, after)
    before = bench.target_of(release, bench.records.auxiliary, lambda: bench.previous_module)
    target.previous = Previous(len(update), before, recipe)
    if not isinstance(job.attack, UpdateInversion):
        raise TypeError(f"{job.name} aims at {job.attack.threat.goal} but is no UpdateInversion")
    guess = job.attack.reconstruct_update(target, job.seed, progress)
    if real:
        bench.drawn[f"{role} {job.identity}"] = (target, guess.images)
    truth = others if role == TWIN else update
    owned, bounds = bench.records.auxiliary, bench.subject.task.bounds
    return target, judge_updates(guess.images, truth, owned, bounds, job.seed, guess.labels)


def _update_of(bench: Bench) -> Records:
    if bench.records.update is None:
        raise NotMeasurable("the subject names no previous version (spec.release.previous)")
    return bench.records.update


def _another_update(bench: Bench, job: Job) -> Records:
    """As many nonmembers as the update has records, of few classes: shares that nobody would guess.

    Raises:
        NotMeasurable: There are fewer.
    """
    others, size = bench.records.nonmembers, len(_update_of(bench))
    if others is None or len(others) < size:
        raise NotMeasurable(f"the subject names fewer than {size} nonmembers, so that no other update can be made")
    rng = np.random.default_rng(derive(job.seed, "another update"))
    place = rng.permutation(bench.subject.task.classes)[others.y]  # of each record's class, in an order of its own
    order = rng.permutation(len(others))
    few = order[place[order] < _FEW]
    rest = order[place[order] >= _FEW]
    found = np.concatenate([few, rest[np.argsort(place[rest], kind="stable")]])[:size]
    return others.take(np.sort(found))


# --- what is shown ---------------------------------------------------------------------------------------------------


def truth_of(bench: Bench, job: Job, seen: Reconstruction, images: NDArray[np.float32]) -> Records:
    """The record that each reconstruction is held against: the victim, or the nearest member of the class."""
    if seen.goal is Goal.RECORD:
        return bench.victims(job.targets)
    if seen.goal is Goal.UPDATE:
        return _update_of(bench)
    members = bench.records.members
    assert members is not None
    rows = []
    for image, label in zip(images, seen.targets, strict=True):
        own = np.flatnonzero(members.y == label)
        rows.append(own[((members.x[own] - image) ** 2).reshape(len(own), -1).mean(axis=1).argmin()])
    return members.take(np.array(rows, dtype=np.int64))
