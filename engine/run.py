"""Run a plan: every attack on the subject and on its controls. The only place where attacks meet records."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import store as storage
from .attack import ClassInversion, MembershipAttack, Progress, RecordInversion, RecordSeparation
from .controls import Controls, Stage, undefended
from .errors import AccountingError, InputError, NotMeasurable
from .exposed import noised_logits
from .inverting import (
    FLOOR,
    NONMEMBERS,
    OPENED,
    further_roles,
    observe_classes,
    observe_records,
    observe_update,
)
from .judges import Evaluators, fit_evaluators
from .ledger import Unit
from .measure import Informed, Measure, Provable
from .measurement import Basis, Measurement, Quantity
from .observation import (
    NO_ANSWER,
    Goal,
    Membership,
    Observation,
    Predictions,
    Separation,
    candidate_order,
)
from .plan import UNTRAINED, VICTIMS, WITHOUT, AccountOutcome, ControlRun, Job, Outcome, Plan, ReferenceStory, derive
from .recipe import Recipe, load_recipe
from .reference import Trained, complementary, train_references
from .shift import Feature, Shift, shift_test
from .subject import load_module, load_previous, make_target
from .target import Access, Exposure, NoiseSource, Records, Reference, Release, Target, joined

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .architectures import Architecture
    from .budget import Spending
    from .policy import Requirement
    from .store import Store
    from .subject import Subject, SubjectRecords

#: Told what is being done and how far it is, 0 to 1.
Report = Callable[[str, float], None]
#: How jobs are spread over workers; `map` runs one after the other.
Spread = Callable[[Callable[[Job], Outcome], Iterable[Job]], Iterable[Outcome]]

_ROLES = ("subject", "twin", "null")
_Kind = TypeVar("_Kind", MembershipAttack, RecordSeparation, ClassInversion, RecordInversion)
#: Fewer reference models than these are not divided, to see what more of them would change.
_DIVISIBLE = 4
#: By how much of accuracy models that were trained alike may differ on their own records.
_UNLIKE = 0.1


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
        spending: What a budget store holds of the subject's data; `None` where none was named.
    """

    subject: Subject
    records: SubjectRecords
    plan: Plan
    store: Store
    trust_code: bool = False
    fresh: bool = False
    report: Report = silent
    spending: Spending | None = None
    drawn: dict[str, tuple[Target, NDArray[np.float32]]] = field(default_factory=dict, repr=False)
    models: dict[str, Target] = field(default_factory=dict, repr=False)
    #: What the user's own code does can change without any file that is named here: its outcomes are never found again.
    factory: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @cached_property
    def module(self) -> torch.nn.Module:
        """The subject's model."""
        self.report("loading the model", 0.0)
        return load_module(self.subject, self.trust_code)

    @cached_property
    def previous_module(self) -> torch.nn.Module:
        """The model as it was before its last update."""
        return load_previous(self.subject, self.trust_code)

    @cached_property
    def update_recipe(self) -> Recipe:
        """How the last update was trained."""
        previous = self.subject.previous
        if previous is None or previous.recipe is None:
            raise NotMeasurable("the subject names no previous version (spec.release.previous)")
        return load_recipe(previous.recipe, data=False)

    @cached_property
    def controls(self) -> Controls:
        """What trains the control models."""
        subject, records = self.subject, self.records
        recipe = Recipe(self._architecture(), subject.task)
        pair = None if self.plan.no_references else lambda: self.trained.models
        return Controls(
            undefended(recipe), subject.task, subject.release, _given(records.members),
            records.nonmembers, records.auxiliary, derive(self.plan.seed, "controls"), self.target_of,
            self.store, self.report, pair, self.plan.references,
        )  # fmt: skip

    @cached_property
    def pool(self) -> Records:
        """Every record whose membership is attacked: the members, then the nonmembers."""
        return joined(_given(self.records.members), _given(self.records.nonmembers))

    @cached_property
    def recipe(self) -> Recipe:
        """How the subject was trained, as it says itself."""
        if self.subject.recipe is None:
            raise NotMeasurable("the subject names no recipe (spec.training.recipe)")
        return load_recipe(self.subject.recipe, data=False)

    @property
    def trained(self) -> Trained:
        """Models trained as the subject was: first the pair that the null is made of, then those of the adversary."""
        if isinstance(self.training, Exception):
            raise self.training
        return self.training

    @cached_property
    def training(self) -> Trained | Exception:
        """What became of training them; what stopped it is remembered, since every attack would stop there again."""
        try:
            return self._train()
        except Exception as error:
            return error

    def _train(self) -> Trained:
        persons = self.pool.persons
        # All records of a person are in a model or none is: else no model would be without her.
        whose = np.arange(len(self.pool)) if persons is None else np.unique(persons, return_inverse=True)[1]
        count, seed = 2 + self.plan.references, derive(self.plan.seed, "references")
        masks = complementary(int(whose.max()) + 1, count, seed)[:, whose]
        seed = derive(self.plan.seed, "reference models")
        return train_references(self.recipe, self.pool, masks, seed, self.store, self.report)

    @cached_property
    def stage(self) -> Stage:
        """The subject, behind its release, and what it is held against."""
        self.report("asking the model", 0.0)
        members = np.arange(len(self.pool)) < len(_given(self.records.members))
        target = self.target_of(Release(Exposure.LOGITS), None, lambda: self.module)
        logits = target.query(self.pool.x)
        references = self.trained.models[2:] if self.plan.references else ()
        return Stage(
            lambda: self.module, self.subject.release, self.records.auxiliary, self.pool, members, logits, references
        )

    @cached_property
    def separation_twin(self) -> Stage:
        """Models in which every record's membership must be found to show."""
        self.report("training the leaky twins", 0.0)
        return self.controls.separation_twin(max(job.references for job in self.plan.jobs))

    @cached_property
    def shift(self) -> Shift | None:
        """Whether members and nonmembers differ by themselves; `None` where there are not both."""
        members, nonmembers = self.records.members, self.records.nonmembers
        if members is None or nonmembers is None:
            return None
        name = storage.key(_subject_parts(self) | {"role": "shift", "run": self.plan.seed})
        kept = None if self.fresh else self.store.get(name)
        if kept is not None:
            return _shift(json.loads(kept))
        self.report("looking for a shift between members and nonmembers", 0.0)
        found = shift_test(members, nonmembers, derive(self.plan.seed, "shift"))
        self.store.put(name, json.dumps(asdict(found)).encode())
        return found

    def reference_story(self) -> ReferenceStory | None:
        """What the reference models were, from the store where it is known; `None` where the attacks had none."""
        if not self.plan.references:
            return None
        parts = {"role": "reference story", "run": self.plan.seed, "references": self.plan.references}
        name = storage.key(_subject_parts(self) | parts)
        kept = None if "training" in vars(self) else self.store.get(name)
        if kept is not None:
            return ReferenceStory(**json.loads(kept))
        try:
            story = _story_of(self.trained, self.stage, self.pool.y)
        except InputError:
            raise
        except Exception:  # what stopped them left every attack that needs them without its null: never a pass
            return None
        self.store.put(name, json.dumps(asdict(story)).encode())
        return story

    @cached_property
    def evaluators(self) -> Evaluators:
        """Identity classifiers, fitted on records that the subject was never trained on."""
        self.report("fitting evaluators", 0.0)
        known = [r for r in (self.records.nonmembers, self.records.auxiliary) if r is not None]
        pool = Records(np.concatenate([r.x for r in known]), np.concatenate([r.y for r in known]))
        return fit_evaluators(pool, self.subject.task.bounds, derive(self.plan.seed, "evaluators"))

    def victims(self, count: int = VICTIMS) -> Records:
        """Members that a record-level attack reconstructs; fewer of them are some of the same."""
        members = _given(self.records.members)
        rng = np.random.default_rng(derive(self.plan.seed, "victims"))
        return members.take(np.sort(rng.permutation(len(members))[:count]))

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """Classes that have training records."""
        return np.unique(_given(self.records.members).y)

    @cached_property
    def membership_twin(self) -> tuple[Stage, ...]:
        """A model that must be found to leak its members."""
        self.report("training the leaky twin", 0.0)
        return self.controls.membership_twin()

    @cached_property
    def membership_null(self) -> tuple[Stage, ...]:
        """Models in which no member can be found."""
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

    def inversion_without(self, classes: NDArray[np.int64]) -> Target:
        """A model that never saw a record of these classes."""
        name = f"without {classes.tolist()}"
        if name not in self.models:
            self.report("training the models without a class", 0.0)
            self.models[name] = self.controls.inversion_without(classes)
        return self.models[name]

    def inversion_untrained(self, release: Release) -> Target:
        """The subject's network with random weights."""
        return self.controls.inversion_untrained(release)

    def subject_target(self) -> Target:
        """The subject as this adversary sees it."""
        return self.target_of(self.subject.release, self.records.auxiliary, lambda: self.module)

    def target_in(self, role: str) -> Target:
        """The subject behind its release, or with the release's defense taken away."""
        if role != OPENED:
            return self.subject_target()
        return self.target_of(self.subject.release.opened(), self.records.auxiliary, lambda: self.module)

    def target_of(
        self,
        release: Release,
        auxiliary: Records | None,
        module: Callable[[], torch.nn.Module],
        known: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]] = (),
    ) -> Target:
        """Any model as this adversary would see it behind a release."""
        noise = derive(self.plan.seed, "noise of the release")
        return make_target(self.subject.task, release, self.plan.access, auxiliary, module, known, noise)

    def _architecture(self) -> Architecture:
        """The network of control models: the subject's own; where code builds that, the recipe's or a plain one."""
        from .architectures.mlp import Mlp

        if self.subject.model.architecture is not None:
            return self.subject.model.architecture
        return load_recipe(self.subject.recipe, data=False).architecture if self.subject.recipe else Mlp()


def _story_of(trained: Trained, stage: Stage, labels: NDArray[np.int64]) -> ReferenceStory:
    right = np.stack([model.logits.argmax(axis=1) == labels for model in stage.references])
    inside = np.stack([model.inside for model in stage.references])
    own = np.asarray(stage.logits).argmax(axis=1) == labels
    return ReferenceStory(
        count=len(stage.references),
        method=trained.method,
        reused=max(0, trained.reused - (len(trained.models) - len(stage.references))),  # the null's come first
        seconds=trained.seconds,
        records=round(float(inside.sum(axis=1).mean())),
        accuracy_inside=float(right[inside].mean()),
        accuracy_outside=float(right[~inside].mean()),
        subject_inside=float(own[stage.members].mean()),
        subject_outside=float(own[~stage.members].mean()),
    )


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
    roles = (*_ROLES, *further_roles(job, bench.subject.release))
    return all(bench.store.get(work_key(bench, job, role)) is not None for role in roles)


def run_job(bench: Bench, job: Job) -> Outcome:
    """One attack on the subject and on both controls. One that raises becomes a crashed outcome, never silence."""
    controls = {role: _control(bench, job, role) for role in ("null", "twin")}
    reason, observation, queries, unmeasurable = "", None, job.queries, False
    budgets: dict[int, Observation] = {}
    seconds, started = 0.0, time.perf_counter()
    try:
        found, queries = _kept(bench, job, "subject")
        seconds = time.perf_counter() - started
        budgets = _budgets(bench, job) if isinstance(found, Membership) else {}
        observation = found  # an attack that stops with fewer references has stopped, too
    except InputError:
        raise  # a model that cannot be loaded is bad input, no crash of an attack
    except NotMeasurable as error:
        reason, unmeasurable = str(error), True
    except Exception as error:  # whatever an attack raises, its requirement ends in error
        reason = f"{type(error).__name__}: {error}"
    rows = {role: _control(bench, job, role) for role in further_roles(job, bench.subject.release)}
    return Outcome(
        job, observation, reason, controls["twin"], controls["null"], seconds, queries, unmeasurable, budgets, rows
    )


def _budgets(bench: Bench, job: Job) -> dict[int, Observation]:
    """The same attack with a quarter and with a half of its reference models, for the report's power curve."""
    fewer = {job.references // 4, job.references // 2} if job.references >= _DIVISIBLE else set()
    return {k: _kept(bench, replace(job, references=k), "subject", f"{k} references")[0] for k in sorted(fewer)}


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
        pair = role == "null" and not bench.plan.no_references
        return _STORIES["membership pair" if pair else f"membership {role}"]
    if job.attack.threat.goal is Goal.RISK:
        return _STORIES[f"separation {role}"]
    if job.attack.threat.goal is Goal.UPDATE:
        return _STORIES[f"update {role}"]
    if role in _ROW_STORIES:
        return _ROW_STORIES[role]
    return _STORIES[
        "shuffled answers" if job.attack.threat.goal is Goal.RECORD and role == "null" else f"inversion {role}"
    ]


_STORIES = {
    "membership twin": "a twin that learnt records by heart under random labels",
    "membership null": "a model that saw neither these members nor these nonmembers",
    "membership pair": "two models trained as the subject was, each asked only about records that it never saw",
    "separation twin": "twins that learnt halves of the records by heart under random labels",
    "separation null": "the same models, in and out tossed for each record",
    "inversion twin": "a twin trained on the members without any defense, releasing every score",
    "inversion null": "a model trained on other records under shuffled labels",
    "update twin": "an update by other records, of few classes, that were learnt five times as often",
    "update null": "what is told of another update, held against this one's records",
    "shuffled answers": "the subject's own answers, shuffled within each class",
}
_ROW_STORIES = {
    UNTRAINED: "the subject's network with random weights",
    WITHOUT: "models trained on other records of the other classes alone",
    NONMEMBERS: "the same attack, held against records that the subject never saw",
    FLOOR: "the same attack where the release exposes the label alone: what no defense of the answers can beat",
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
        "previous": _previous_parts(subject),
        "data": {name: file and file.sha256 for name, file in files.items()},
        "recipe": subject.recipe.read_text(encoding="utf-8") if subject.recipe else None,
    }


def _previous_parts(subject: Subject) -> list[str | None]:
    """What of the earlier version can change an outcome."""
    previous = subject.previous
    if previous is None:
        return []
    recipe = previous.recipe.read_text(encoding="utf-8") if previous.recipe else None
    return [previous.sha256, previous.records.sha256, recipe]


def work_key(bench: Bench, job: Job, role: str, variant: str = "") -> str:
    """Names everything that can change this outcome."""
    plan = bench.plan
    return storage.key(
        _subject_parts(bench)
        | {"access": plan.access, "run": plan.seed, "role": role, "variant": variant, "columns": _columns(plan)}
        | {"attack": job.name, "parameters": job.parameters, "seed": job.seed}
    )


def _kept(bench: Bench, job: Job, role: str, variant: str = "") -> tuple[Observation, int]:
    """The stored outcome and its queries, or the work itself."""
    name = work_key(bench, job, role, variant)
    kept, meta = bench.store.observation(name), bench.store.get(f"{name}.meta")
    if kept is not None and meta is not None:
        return kept, int(json.loads(meta)["queries"])
    target, observation = _work(bench, job, role)
    queries = target.queries or job.queries  # who holds the module asks it without being counted
    bench.store.put(f"{name}.meta", json.dumps({"queries": queries}).encode())
    drawn = bench.drawn.get(f"{role} {job.identity}") if role == "subject" and not variant else None
    if drawn is not None:  # for a gallery that is asked for later
        bench.store.put(f"{name}.images", storage.pack({}, {"images": drawn[1]}))
    bench.store.put(name, storage.encode(observation))
    return observation, queries


def _work(bench: Bench, job: Job, role: str) -> tuple[Target, Observation]:
    progress: Progress = lambda share: bench.report(f"{job.name} on the {role}", share)  # noqa: E731
    progress(0.0)
    work = {
        Goal.MEMBERSHIP: _membership,
        Goal.RISK: _separation,
        Goal.CLASS: observe_classes,
        Goal.RECORD: observe_records,
        Goal.UPDATE: observe_update,
    }
    return work[job.attack.threat.goal](bench, job, role, progress)


# --- membership ------------------------------------------------------------------------------------------------------


def _membership(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    seen = [_attacked(bench, job, stage, progress) for stage in _stages(bench, role)]
    target, first = seen[0]
    if len(seen) == 1:
        return target, first
    return target, _together([observation for _, observation in seen])


def _stages(bench: Bench, role: str) -> tuple[Stage, ...]:
    if role == "twin":
        return bench.membership_twin
    if role == "null":
        if not bench.plan.no_references:
            _refuse_unlike(bench, both_ways=False)
        return bench.membership_null
    return (replace(bench.stage, release=bench.subject.release.opened()) if role == OPENED else bench.stage,)


def _attacked(bench: Bench, job: Job, stage: Stage, progress: Progress) -> tuple[Target, Membership]:
    """Let an attack score members and nonmembers, shuffled, so that their order tells nothing.

    Raises:
        ValueError: It did not give one score for each record.
    """
    order = candidate_order(job.seed, len(stage.pool))
    candidates = stage.pool.take(order)
    target = _target_on(bench, stage, order, candidates, job.references)
    scores = np.asarray(_of(job, MembershipAttack).score(target, candidates, job.seed, progress), dtype=np.float64)
    if scores.shape != (len(candidates),):
        raise ValueError(f"expected a score for each of {len(candidates)} records, found shape {scores.shape}")
    columns = _columns(bench.plan)
    slices = candidates.x.reshape(len(candidates), -1)[:, :columns].astype(np.float64) if columns else None
    return target, Membership(scores, stage.members[order], candidates.y, candidates.persons, slices)


def _columns(plan: Plan) -> int:
    """How many columns of the records the requirements need that look at subgroups by one of them."""
    measures = [a.requirement.measure for a in plan.assignments]
    return max((m.column + 1 for m in measures if getattr(m, "by", None) == "column"), default=0)  # type: ignore[attr-defined]


def _together(parts: list[Membership]) -> Membership:
    """What an attack said of the records of several stages."""
    scores, members, groups = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "members", "groups")
    )
    persons = [part.persons for part in parts if part.persons is not None]
    slices = [part.slices for part in parts if part.slices is not None]
    return Membership(
        scores,
        members,
        groups,
        np.concatenate(persons) if persons else None,
        np.concatenate(slices) if slices else None,
    )


def _target_on(bench: Bench, stage: Stage, order: NDArray[np.int64], candidates: Records, references: int) -> Target:
    """The model of a stage as this adversary sees it, with as many models of his own as the attack asked for."""
    logits = () if stage.logits is None else ((candidates.x, stage.logits[order]),)
    rows = order if stage.rows is None else stage.rows[order]
    others = []
    for model in stage.references[:references]:
        known = ((candidates.x, model.logits[rows].astype(np.float64)),)
        target = bench.target_of(stage.release, stage.auxiliary, model.module, known)
        others.append(Reference(target, model.inside[rows]))
    found = bench.target_of(stage.release, stage.auxiliary, stage.module, logits)
    found.references = tuple(others)
    return found


# --- separation: what membership changes, by models trained with and without each record ---------------------------


def _separation(bench: Bench, job: Job, role: str, progress: Progress) -> tuple[Target, Observation]:
    if role != "twin":
        _refuse_unlike(bench, both_ways=True)
    stage = bench.separation_twin if role == "twin" else _stages(bench, OPENED if role == OPENED else "subject")[0]
    order = candidate_order(job.seed, len(stage.pool))
    candidates = stage.pool.take(order)
    target = _target_on(bench, stage, order, candidates, job.references)
    signals = np.asarray(_of(job, RecordSeparation).signals(target, candidates, job.seed, progress), dtype=np.float64)
    inside = np.stack([reference.inside for reference in target.references])
    if role == "null":
        inside = _in_and_out_shuffled(inside, job.seed)
    return target, Separation(signals, inside, stage.members[order], candidates.y)


def _refuse_unlike(bench: Bench, both_ways: bool) -> None:
    """Refuse models that do not fit their records as the subject fits its own: they say nothing of its training.

    Raises:
        NotMeasurable: The subject fits its members better than these models theirs; or worse, where both ways count.
    """
    right = np.stack([model.logits.argmax(axis=1) == bench.pool.y for model in bench.trained.models])
    theirs = float(right[np.stack([model.inside for model in bench.trained.models])].mean())
    own = float((np.asarray(bench.stage.logits).argmax(axis=1) == bench.pool.y)[bench.stage.members].mean())
    if own - theirs > _UNLIKE or (both_ways and theirs - own > _UNLIKE):
        raise NotMeasurable(
            f"models trained by the recipe are right about {theirs:.0%} of their own records, the subject about "
            f"{own:.0%} of its members: name the recipe that it was trained by, and about as many nonmembers as members"
        )


def _in_and_out_shuffled(inside: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """For each record and each two complementary models, tossed which of them was trained on it."""
    tossed = np.random.default_rng(seed).random((-(-len(inside) // 2), inside.shape[1])) < 0.5
    return np.asarray(inside ^ np.repeat(tossed, 2, axis=0)[: len(inside)])


# --- without an adversary --------------------------------------------------------------------------------------------


def predictions(bench: Bench) -> Predictions:
    """What the model predicts on the nonmembers, from the store where it is known."""
    drawn = {"run": bench.plan.seed} if bench.subject.release.noise is not None else {}
    name = storage.key(_subject_parts(bench) | {"role": "predictions"} | drawn)
    kept = None if bench.fresh else bench.store.observation(name)
    if isinstance(kept, Predictions):
        return kept
    records = _given(bench.records.nonmembers)
    answers = _released_answers(bench, records.x)
    answered = np.isfinite(answers).all(axis=1)
    found = Predictions(records.y, np.where(answered, answers.argmax(axis=1), NO_ANSWER).astype(np.int64))
    bench.store.put(name, storage.encode(found))
    return found


def _released_answers(bench: Bench, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the released model answers, noise and all; a split one by what its upper part is given."""
    task, release = bench.subject.task, bench.subject.release
    if release.exposes is Exposure.ACTIVATIONS and release.noise is not None:
        source = NoiseSource(derive(bench.plan.seed, "noise of the predictions"))
        return noised_logits(bench.module, release, x, source)
    if release.noise is not None and release.exposes is not Exposure.GRADIENTS:
        seed, given = derive(bench.plan.seed, "noise of the predictions"), Release(release.exposes, noise=release.noise)
        return make_target(task, given, Access.RELEASE, None, lambda: bench.module, noise_seed=seed).query(x)
    return make_target(task, Release(Exposure.LABEL), Access.RELEASE, None, lambda: bench.module).query(x)


def account(bench: Bench, requirement: Requirement) -> AccountOutcome:
    """What the ledger or a claim says, from the store where the accountants have spoken already."""
    parts = {"account": repr(bench.subject.account), "measure": repr(requirement.measure)}
    if isinstance(requirement.measure, Informed):
        parts["auxiliary"] = repr(bench.subject.auxiliary)
    name = storage.key(parts)
    kept = None if bench.fresh else bench.store.get(name)
    if kept is not None:
        return AccountOutcome(_measurement(json.loads(kept)))
    try:
        found = _informed(bench, requirement.measure).measure(bench.subject.account, 0.0)
    except NotMeasurable as error:
        return AccountOutcome(missing=str(error))
    except AccountingError as error:
        return AccountOutcome(failed=str(error))
    except Exception as error:  # an accountant that breaks leaves its requirement in error, the others standing
        return AccountOutcome(failed=f"{type(error).__name__}: {error}")
    bench.store.put(name, json.dumps(asdict(found)).encode())
    return AccountOutcome(found)


def _informed(bench: Bench, measure: Measure) -> Measure:
    """The measure, told the auxiliary records if it needs them."""
    if not isinstance(measure, Informed):
        return measure
    auxiliary = bench.records.auxiliary
    return measure.with_auxiliary(None if auxiliary is None else auxiliary.x)


def proof(bench: Bench, requirement: Requirement) -> Measurement | None:
    """What midguard's own ledger proves of a requirement that attacks decide; `None` where it proves nothing of it.

    A ledger of single records says nothing of records whose persons are known, and one that an evidence test refuted
    says nothing at all.
    """
    held, members = bench.subject.account, bench.records.members
    ledger, measure = held.ledger, requirement.measure
    if ledger is None or not ledger.proves or not ledger.private or not isinstance(measure, Provable):
        return None
    grouped = members is not None and members.persons is not None
    if (grouped and not ledger.knows_persons) or (held.audit is not None and held.audit.refuted):
        return None
    ledger = replace(ledger, unit=Unit.PERSON if ledger.knows_persons else Unit.RECORD)
    name = storage.key({"proof": repr(ledger), "measure": f"{requirement.measure_name} {measure!r}"})
    kept = None if bench.fresh else bench.store.get(name)
    if kept is not None:
        return _measurement(json.loads(kept))
    try:
        found = measure.proved(ledger)
    except Exception:  # no proof: the attacks' word stands, which was no pass
        return None
    bench.store.put(name, json.dumps(asdict(found)).encode())
    return found


def _shift(plain: dict[str, Any]) -> Shift:
    return Shift(**plain | {"features": tuple(Feature(**entry) for entry in plain["features"])})


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
