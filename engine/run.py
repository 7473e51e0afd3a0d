"""Run a plan: every attack on the subject and on its controls. The only place where attacks meet records."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from . import store as storage
from .attack import ClassInversion, MembershipAttack, Progress, RecordInversion
from .controls import Controls, MembershipControl, shuffled_within, undefended
from .errors import AccountingError, InputError, NotMeasurable
from .judges import Evaluators, fit_evaluators, judge_classes, judge_records
from .measurement import Basis, Measurement, Quantity
from .observation import NO_ANSWER, Goal, Membership, Observation, Predictions, Reconstruction
from .plan import VICTIMS, AccountOutcome, ControlRun, Job, Outcome, Plan, derive
from .recipe import Recipe, load_recipe
from .subject import load_module, make_target
from .target import Access, Exposure, Records, Release, Target

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .architectures import Architecture
    from .policy import Requirement
    from .store import Store
    from .subject import Subject, SubjectRecords

#: Told what is being done and how far it is, 0 to 1.
Report = Callable[[str, float], None]
#: How jobs are spread over workers; `map` runs one after the other.
Spread = Callable[[Callable[[Job], Outcome], Iterable[Job]], Iterable[Outcome]]

_ROLES = ("subject", "twin", "null")
#: The subject with its release's defense taken away; no verdict rests on it.
OPENED = "open"
_Kind = TypeVar("_Kind", MembershipAttack, ClassInversion, RecordInversion)


def silent(what: str, share: float) -> None:
    """Report nothing."""


@dataclass
class Bench:
    """The subject on the bench: its model, records and controls, each made when it is first needed.

    Attributes:
        subject: What is attacked.
        records: Its records.
        plan: What will run.
        store: Where outcomes are kept.
        trust_code: Whether the user's own code may build the model.
        fresh: Whether everything is to be done again, whatever the store holds.
        report: Told how far the work is.
    """

    subject: Subject
    records: SubjectRecords
    plan: Plan
    store: Store
    trust_code: bool = False
    fresh: bool = False
    report: Report = silent
    drawn: dict[str, tuple[Target, NDArray[np.float32]]] = field(default_factory=dict, repr=False)
    #: What the user's own code does can change without any file that is named here: its outcomes are never found again.
    factory: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @cached_property
    def module(self) -> torch.nn.Module:
        """The subject's model."""
        self.report("loading the model", 0.0)
        return load_module(self.subject, self.trust_code)

    @cached_property
    def controls(self) -> Controls:
        """What trains the control models."""
        subject, records = self.subject, self.records
        recipe = Recipe(self._architecture(), subject.task)
        return Controls(
            undefended(recipe), subject.task, subject.release, _given(records.members),
            records.nonmembers, records.auxiliary, derive(self.plan.seed, "controls"), self.target_of,
        )  # fmt: skip

    @cached_property
    def evaluators(self) -> Evaluators:
        """Identity classifiers, fitted on records that the subject was never trained on."""
        self.report("fitting evaluators", 0.0)
        known = [r for r in (self.records.nonmembers, self.records.auxiliary) if r is not None]
        pool = Records(np.concatenate([r.x for r in known]), np.concatenate([r.y for r in known]))
        return fit_evaluators(pool, self.subject.task.bounds, derive(self.plan.seed, "evaluators"))

    @cached_property
    def victims(self) -> Records:
        """Members that a record-level attack reconstructs."""
        members = _given(self.records.members)
        rng = np.random.default_rng(derive(self.plan.seed, "victims"))
        return members.take(np.sort(rng.permutation(len(members))[:VICTIMS]))

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """Classes that have training records."""
        return np.unique(_given(self.records.members).y)

    @cached_property
    def membership_twin(self) -> MembershipControl:
        """A model that must be found to leak its members."""
        self.report("training the leaky twin", 0.0)
        return self.controls.membership_twin()

    @cached_property
    def membership_null(self) -> MembershipControl:
        """A model in which no member can be found."""
        self.report("training the null", 0.0)
        return self.controls.membership_null()

    @cached_property
    def inversion_twin(self) -> Target:
        """A model whose answers must be found to tell its records."""
        self.report("training the leaky twin", 0.0)
        return self.controls.inversion_twin()

    @cached_property
    def inversion_null(self) -> Target:
        """A model without any class to invert."""
        self.report("training the null", 0.0)
        return self.controls.inversion_null()

    def null_images(self, job: Job) -> tuple[Target, NDArray[np.float32]]:
        """What a class inversion draws of a model without these classes; drawn once for a job."""
        name = f"null {job.identity}"
        if name not in self.drawn:
            progress: Progress = lambda share: self.report(f"{job.name} on the null", share)  # noqa: E731
            images = _of(job, ClassInversion).reconstruct_classes(self.inversion_null, self.classes, job.seed, progress)
            self.drawn[name] = (self.inversion_null, np.asarray(images))
        return self.drawn[name]

    def record_images(self, job: Job, role: str, progress: Progress) -> tuple[Target, NDArray[np.float32]]:
        """What a record inversion draws of the victims, drawn once; the null judges what was drawn of the subject."""
        name = f"{role} {job.identity}"
        if name not in self.drawn:
            target = self.inversion_twin if role == "twin" else self.target_in(role)
            outputs = target.query(self.victims.x)
            images = _of(job, RecordInversion).reconstruct_records(target, outputs, job.seed, progress)
            self.drawn[name] = (target, np.asarray(images))
        return self.drawn[name]

    def subject_target(self) -> Target:
        """The subject as this adversary sees it."""
        return self.target_of(self.subject.release, self.records.auxiliary, self.module)

    def target_in(self, role: str) -> Target:
        """The subject behind its release, or with the release's defense taken away."""
        if role != OPENED:
            return self.subject_target()
        return self.target_of(self.subject.release.opened(), self.records.auxiliary, self.module)

    def target_of(self, release: Release, auxiliary: Records | None, module: torch.nn.Module) -> Target:
        """Any model as this adversary would see it behind a release."""
        return make_target(self.subject.task, release, self.plan.access, auxiliary, lambda: module)

    def _architecture(self) -> Architecture:
        """The network of control models: the subject's own; where code builds that, the recipe's or a plain one."""
        from .architectures.mlp import Mlp

        if self.subject.model.architecture is not None:
            return self.subject.model.architecture
        return load_recipe(self.subject.recipe, data=False).architecture if self.subject.recipe else Mlp()


def run(bench: Bench, spread: Spread = map) -> dict[str, Outcome]:
    """Run every job of the plan, from the store where it holds the same work already.

    Args:
        bench: The subject.
        spread: The only place where parallel work comes in.

    Returns:
        What became of every job, by its identity.
    """
    # Controls read the module and train; a stored outcome needs neither.
    return {outcome.job.identity: outcome for outcome in spread(lambda job: run_job(bench, job), bench.plan.jobs)}


def stored(bench: Bench, job: Job) -> bool:
    """Whether the store holds the job's every outcome, so that no model has to be loaded for it."""
    return all(bench.store.get(work_key(bench, job, role)) is not None for role in _ROLES)


def run_job(bench: Bench, job: Job) -> Outcome:
    """One attack on the subject and on both controls. One that raises becomes a crashed outcome, never silence."""
    controls = {role: _control(bench, job, role) for role in ("null", "twin")}
    reason, observation, queries, unmeasurable = "", None, job.queries, False
    started = time.perf_counter()
    try:
        observation, queries = _kept(bench, job, "subject")
    except InputError:
        raise  # a model that cannot be loaded is bad input, no crash of an attack
    except NotMeasurable as error:
        reason, unmeasurable = str(error), True
    except Exception as error:  # whatever an attack raises, its requirement ends in error
        reason = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return Outcome(job, observation, reason, controls["twin"], controls["null"], seconds, queries, unmeasurable)


def run_opened(bench: Bench, requirement: Requirement) -> dict[str, Observation]:
    """What the attacks achieve if the release keeps nothing back, by attack; empty where it keeps nothing back."""
    return {job.name: _kept(bench, job, OPENED)[0] for job in bench.plan.opened.get(requirement.id, ())}


def _control(bench: Bench, job: Job, role: str) -> ControlRun:
    try:
        observation, _ = _kept(bench, job, role)
    except InputError:
        raise
    except Exception as error:  # a control that cannot run leaves the attack untested: never a pass
        return ControlRun(None, f"{type(error).__name__}: {error}")
    return ControlRun(observation, _story(bench, job, role))


def _story(bench: Bench, job: Job, role: str) -> str:
    """What a control was, in words; the same whether it ran now or stands in the store."""
    if job.attack.threat.goal is Goal.MEMBERSHIP:
        return _STORIES[f"membership {role}"]
    return _STORIES[
        "shuffled answers" if job.attack.threat.goal is Goal.RECORD and role == "null" else f"inversion {role}"
    ]


_STORIES = {
    "membership twin": "a twin that learnt records by heart under random labels",
    "membership null": "a model that saw neither these members nor these nonmembers",
    "inversion twin": "a twin trained on the members without any defense, releasing every score",
    "inversion null": "a model trained on other records under shuffled labels",
    "shuffled answers": "the subject's own answers, shuffled within each class",
}


def _subject_parts(bench: Bench) -> dict[str, object]:
    """Everything of the subject that can change an outcome."""
    subject = bench.subject
    files = {"members": subject.members, "nonmembers": subject.nonmembers, "auxiliary": subject.auxiliary}
    return {
        "model": subject.model.sha256,
        "network": [repr(subject.model.architecture), subject.model.factory and bench.factory],
        "task": repr(subject.task),
        "release": repr(subject.release),
        "data": {name: file and file.sha256 for name, file in files.items()},
        "recipe": subject.recipe.read_text(encoding="utf-8") if subject.recipe else None,
    }


def work_key(bench: Bench, job: Job, role: str) -> str:
    """Names everything that can change this outcome."""
    plan = bench.plan
    return storage.key(
        _subject_parts(bench)
        | {"access": plan.access, "run": plan.seed, "role": role}
        | {"attack": job.name, "parameters": job.parameters, "seed": job.seed}
    )


def _kept(bench: Bench, job: Job, role: str) -> tuple[Observation, int]:
    """The stored outcome and its queries, or the work itself."""
    name = work_key(bench, job, role)
    kept, meta = bench.store.observation(name), bench.store.get(f"{name}.meta")
    if kept is not None and meta is not None:
        return kept, int(json.loads(meta)["queries"])
    target, observation = _work(bench, job, role)
    queries = target.queries or job.queries  # who holds the module asks it without being counted
    bench.store.put(f"{name}.meta", json.dumps({"queries": queries}).encode())
    bench.store.put(name, storage.encode(observation))
    return observation, queries


def _work(bench: Bench, job: Job, role: str) -> tuple[Target, Observation]:
    progress: Progress = lambda share: bench.report(f"{job.name} on the {role}", share)  # noqa: E731
    progress(0.0)
    work = {Goal.MEMBERSHIP: _membership, Goal.CLASS: _classes, Goal.RECORD: _single_records}
    return work[job.attack.threat.goal](bench, job, role, progress)


# --- membership ------------------------------------------------------------------------------------------------------


def _membership(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    attack = _of(job, MembershipAttack)
    if role in {"subject", OPENED}:
        target, inside, outside = bench.target_in(role), bench.records.members, bench.records.nonmembers
        return target, observe_membership(attack, target, _given(inside), _given(outside), job.seed, progress)
    control = bench.membership_twin if role == "twin" else bench.membership_null
    return control.target, observe_membership(
        attack, control.target, control.inside, control.outside, job.seed, progress
    )


def observe_membership(
    attack: MembershipAttack, target: Target, inside: Records, outside: Records, seed: int, progress: Progress
) -> Membership:
    """Let an attack score members and nonmembers, shuffled, so that their order tells nothing.

    Raises:
        ValueError: It did not give one score for each record.
    """
    order = np.random.default_rng(seed).permutation(len(inside) + len(outside))
    pool = Records(np.concatenate([inside.x, outside.x]), np.concatenate([inside.y, outside.y])).take(order)
    members = order < len(inside)
    scores = np.asarray(attack.score(target, pool, seed, progress), dtype=np.float64)
    if scores.shape != members.shape:
        raise ValueError(f"expected a score for each of {len(members)} records, found shape {scores.shape}")
    return Membership(scores, members, pool.y)


# --- inversion of classes --------------------------------------------------------------------------------------------


def _classes(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    null, nothing = bench.null_images(job)
    if role == "null":
        # What a model without these classes yields, and the same pictures held against other classes.
        return null, _judged(bench, nothing, np.roll(nothing, 1, axis=0))
    target = bench.subject_target() if role == "subject" else bench.inversion_twin
    images = _of(job, ClassInversion).reconstruct_classes(target, bench.classes, job.seed, progress)
    return target, _judged(bench, np.asarray(images), nothing)


def _judged(bench: Bench, images: NDArray[np.float32], nothing: NDArray[np.float32]) -> Reconstruction:
    members, auxiliary = _given(bench.records.members), bench.records.auxiliary
    return judge_classes(images, bench.classes, members, bench.evaluators, auxiliary, nothing)


# --- inversion of records --------------------------------------------------------------------------------------------


def _single_records(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    victims = bench.victims
    target, images = bench.record_images(job, "subject" if role == "null" else role, progress)
    if role == "null":
        # Each reconstruction is held against another record of the same class: it can tell nothing but the class.
        images = images[shuffled_within(victims.y, job.seed)]
    return target, judge_records(images, victims, bench.records.auxiliary, bench.subject.task.bounds)


# --- without an adversary --------------------------------------------------------------------------------------------


def predictions(bench: Bench) -> Predictions:
    """What the model predicts on the nonmembers, from the store where it is known."""
    name = storage.key(_subject_parts(bench) | {"role": "predictions"})
    kept = None if bench.fresh else bench.store.observation(name)
    if isinstance(kept, Predictions):
        return kept
    records = _given(bench.records.nonmembers)
    label = make_target(bench.subject.task, Release(Exposure.LABEL), Access.RELEASE, None, lambda: bench.module)
    answers = label.query(records.x)
    answered = np.isfinite(answers).all(axis=1)
    found = Predictions(records.y, np.where(answered, answers.argmax(axis=1), NO_ANSWER).astype(np.int64))
    bench.store.put(name, storage.encode(found))
    return found


def account(bench: Bench, requirement: Requirement) -> AccountOutcome:
    """What the ledger or a claim says, from the store where the accountants have spoken already."""
    name = storage.key({"account": repr(bench.subject.account), "measure": repr(requirement.measure)})
    kept = None if bench.fresh else bench.store.get(name)
    if kept is not None:
        return AccountOutcome(_measurement(json.loads(kept)))
    try:
        found = requirement.measure.measure(bench.subject.account, 0.0)
    except NotMeasurable as error:
        return AccountOutcome(missing=str(error))
    except AccountingError as error:
        return AccountOutcome(failed=str(error))
    except Exception as error:  # an accountant that breaks leaves its requirement in error, the others standing
        return AccountOutcome(failed=f"{type(error).__name__}: {error}")
    bench.store.put(name, json.dumps(asdict(found)).encode())
    return AccountOutcome(found)


def _measurement(plain: dict[str, object]) -> Measurement:
    details = tuple(Quantity(**entry) for entry in plain.pop("details"))  # type: ignore[attr-defined]
    return Measurement(**plain | {"basis": Basis(plain["basis"]), "details": details})  # type: ignore[arg-type]


def _of(job: Job, kind: type[_Kind]) -> _Kind:
    """The job's attack, as the kind that its goal asks for."""
    if not isinstance(job.attack, kind):
        raise TypeError(f"{job.name} aims at {job.attack.threat.goal} but is no {kind.__name__}")
    return job.attack


def _given(records: Records | None) -> Records:
    if records is None:
        raise NotMeasurable("the subject does not name the records that this needs")
    return records
