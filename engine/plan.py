"""The plan: everything that will run, with parameters and seeds, and everything that cannot, and why.

Made before anything runs and printed as it is; nothing in it is computed while running.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, cast

from . import registry
from .attack import Attack, parameters_under, profile_of
from .errors import InputError
from .measure import Reads
from .observation import Goal
from .policy import AttackChoice, Policy, Requirement
from .recipe import load_recipe
from .target import Access, Exposure

if TYPE_CHECKING:
    from .measurement import Measurement
    from .observation import Observation
    from .subject import Subject

#: At most so many members are reconstructed by a record-level attack.
VICTIMS = 1000
#: Rows in which a class attack must find nothing, besides the null. An untrained model's scores do tell of a record.
UNTRAINED, WITHOUT = "untrained", "without the class"
CLASS_NULLS = (UNTRAINED, WITHOUT)


@dataclass(frozen=True, slots=True)
class Job:
    """One attack with one set of parameters; it runs on the subject, on the leaky twin and on the null.

    Attributes:
        name: The attack.
        attack: The plugin, its parameters set.
        seed: What its randomness is drawn from.
        queries: Forward passes that it needs on the subject.
        references: Reference models that it needs; 0 for none.
        targets: How many candidates, classes or records it is let loose on.
        repeats: How often the adversary sees what is answered on each of them; 1 unless the release is noisy.
    """

    name: str
    attack: Attack
    seed: int
    queries: int
    references: int = 0
    targets: int = 0
    repeats: int = 1

    @property
    def parameters(self) -> str:
        """Its parameters as canonical JSON."""
        return parameters_of(self.attack)

    @property
    def identity(self) -> str:
        """What tells it from every other job of the plan."""
        return f"{self.name}{self.parameters}"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """An attack that this adversary cannot mount here.

    Attributes:
        attack: Its name.
        reason: Why, in words.
        named: Whether the policy named it; then the requirement cannot be met without it.
    """

    attack: str
    reason: str
    named: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one requirement rests on.

    Attributes:
        requirement: The requirement.
        jobs: Identities of the jobs whose outcome it is judged by.
        obstacles: Attacks of its kind that will not run.
        missing: Why it cannot be measured at all; empty where it can.
        alpha: The error that each of its intervals may spend.
    """

    requirement: Requirement
    jobs: tuple[str, ...]
    obstacles: tuple[Obstacle, ...]
    missing: str
    alpha: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will run, and everything that cannot.

    Attributes:
        policy: What must hold.
        seed: The run's seed; every other one is derived from it.
        access: What the adversary holds.
        exposure: What a query returns to him.
        assignments: One for each requirement, in the policy's order.
        jobs: Every distinct attack once.
        refutation_alpha: The error that the test of a claimed or proved ε against the attacks may spend.
        no_references: Why no reference model can be trained; empty where one can.
        profile: `standard`, or `thorough`, where costly attacks run, too.
        opened: Where the release keeps something back: the jobs of each requirement that would run if it did not, by
            the requirement's id. They say whether the training or the interface protects; no verdict rests on them.
    """

    policy: Policy
    seed: int
    access: Access
    exposure: Exposure
    assignments: tuple[Assignment, ...]
    jobs: tuple[Job, ...]
    refutation_alpha: float
    opened: Mapping[str, tuple[Job, ...]] = field(default_factory=dict)
    no_references: str = ""
    profile: str = "standard"

    @property
    def references(self) -> int:
        """How many reference models the jobs share."""
        everything = (*self.jobs, *(job for jobs in self.opened.values() for job in jobs))
        return max((job.references for job in everything), default=0)


@dataclass(frozen=True, slots=True)
class ControlRun:
    """What an attack did where the answer is known.

    Attributes:
        observation: Its outcome, or `None` where the control could not run.
        reason: Why not, or what the control was.
    """

    observation: Observation | None
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        observation: Its outcome on the subject; `None` where it crashed.
        reason: What stopped it; empty where it ran.
        positive: The same attack on the leaky twin.
        negative: The same attack where there is nothing to find.
        seconds: Time it took on the subject, the controls left out.
        queries: Records it sent through the subject.
        unmeasurable: Whether it was not stopped by a fault but by what the subject does not give.
        budgets: What the same attack achieves on the subject with fewer reference models, by their number.
        rows: What an inversion attack did elsewhere, by the name of the row: on an untrained model, on nonmembers.
    """

    job: Job
    observation: Observation | None
    reason: str
    positive: ControlRun
    negative: ControlRun
    seconds: float
    queries: int
    unmeasurable: bool = False
    budgets: Mapping[int, Observation] = field(default_factory=dict)
    rows: Mapping[str, ControlRun] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReferenceStory:
    """What the reference models of a check were, for the report.

    Attributes:
        count: How many the attacks shared.
        method: How they were trained, in words.
        reused: How many of them the store held already.
        seconds: How long training the others took.
        records: How many records each was trained on, about; the subject was trained on its members.
        accuracy_inside: Mean accuracy of a reference model on its own training records.
        accuracy_outside: Mean accuracy on the records that it was not trained on.
        subject_inside: The subject's accuracy on its members.
        subject_outside: The subject's accuracy on the nonmembers.
    """

    count: int
    method: str
    reused: int
    seconds: float
    records: int
    accuracy_inside: float
    accuracy_outside: float
    subject_inside: float
    subject_outside: float


@dataclass(frozen=True, slots=True)
class AccountOutcome:
    """What the accountants said of one requirement; exactly one field is set.

    Attributes:
        measurement: What they proved, or what the subject claims.
        missing: Why there is nothing to account.
        failed: How an accountant failed.
    """

    measurement: Measurement | None = None
    missing: str = ""
    failed: str = ""

    def __post_init__(self) -> None:
        if sum([self.measurement is not None, bool(self.missing), bool(self.failed)]) != 1:
            raise ValueError("an account outcome is a measurement, a lack or a failure")


def parameters_of(plugin: object) -> str:
    """A plugin's parameters as canonical JSON."""
    return json.dumps(asdict(plugin), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]


def derive(seed: int, *names: str) -> int:
    """A seed of its own for everything that has a name; the same for the same run's seed."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:6], "big")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many records there are of each kind; 0 where there are none."""

    members: int
    nonmembers: int
    auxiliary: int
    update: int = 0


#: The costs that a check may be allowed: every attack that takes minutes, or those that take hours, too.
PROFILES = ("standard", "thorough")


def make_plan(policy: Policy, subject: Subject, seed: int, sizes: Sizes, profile: str = "standard") -> Plan:
    """Decide what runs. Looks at no record, loads no model, imports no torch.

    Args:
        policy: What must hold.
        subject: What is checked.
        seed: The run's.
        sizes: How many records the attacks will meet, for their cost.
        profile: One of `PROFILES`.
    """
    if profile not in PROFILES:
        raise InputError.of(f"unknown profile {profile!r}", f"expected {' or '.join(PROFILES)}")
    exposure = Exposure.LOGITS if policy.access is Access.WEIGHTS else subject.release.exposes
    share = (1 - policy.confidence) / _statements(policy, subject)
    no_references = references_obstacle(subject)
    jobs: dict[str, Job] = {}
    assignments = []
    for requirement in policy.requirements:
        runnable, obstacles = _attacks(requirement, policy.access, exposure, subject, no_references, profile)
        for choice in runnable:
            job = _job(choice, subject, seed, sizes)
            jobs.setdefault(job.identity, job)
        identities = tuple(choice.name + parameters_of(choice.attack) for choice in runnable)
        missing = _missing(requirement, subject, runnable, obstacles)
        alpha = share / max(1, len(runnable))
        assignments.append(Assignment(requirement, identities, tuple(obstacles), missing, alpha))
    found = tuple(jobs.values())
    opened = (
        _opened(policy, subject, seed, sizes, no_references, profile)
        if exposure is not Exposure.LOGITS and subject.release.defended
        else {}
    )
    members = sum(job.name.startswith(f"{Reads.MEMBERSHIP}.") for job in found)
    refutation = share / max(1, members)
    return Plan(
        policy, seed, policy.access, exposure, tuple(assignments), found, refutation, opened, no_references, profile
    )


def references_obstacle(subject: Subject) -> str:
    """Why no reference model can be trained, in words; empty where one can.

    Raises:
        InputError: The recipe cannot be read.
    """
    if subject.recipe is None:
        return "the subject names no recipe (spec.training.recipe)"
    if subject.members is None or subject.nonmembers is None:
        return "the subject does not name both members and nonmembers to train them on"
    recipe = load_recipe(subject.recipe, data=False)
    if subject.model.architecture is not None and recipe.architecture != subject.model.architecture:
        return "the recipe trains another network than the model's (spec.model.architecture)"
    if recipe.task != subject.task:
        return "the recipe's task is not the model's (spec.task)"
    if not recipe.from_scratch:
        return "references are trained from scratch, and the recipe transfers, pre-trains, freezes or searches"
    return ""


def _opened(
    policy: Policy, subject: Subject, seed: int, sizes: Sizes, no_references: str, profile: str
) -> dict[str, tuple[Job, ...]]:
    """What could be mounted on the same model behind an open interface, for each requirement that attacks decide."""
    exposure = subject.release.opened().exposes
    found = {}
    for requirement in policy.requirements:
        if requirement.measure.goals:
            runnable, _ = _attacks(requirement, policy.access, exposure, subject, no_references, profile)
            found[requirement.id] = tuple(_job(choice, subject, seed, sizes) for choice in runnable)
    return found


def _statements(policy: Policy, subject: Subject) -> int:
    """Over how many statistical statements the family-wise error is split; a proof makes none."""
    judged = sum(requirement.measure.reads is not Reads.ACCOUNT for requirement in policy.requirements)
    refutable = subject.account.claim is not None or subject.account.ledger is not None
    return max(1, judged + refutable)


def _attacks(
    requirement: Requirement, access: Access, exposure: Exposure, subject: Subject, no_references: str, profile: str
) -> tuple[list[AttackChoice], list[Obstacle]]:
    """The attacks that can be mounted for a requirement, and those that cannot."""
    runnable, obstacles = [], []
    for choice in requirement.attacks or _suite(requirement, profile):
        threat = choice.attack.threat
        owned, before = subject.auxiliary is not None, subject.previous is not None
        reason = threat.obstacle(access, exposure, owned, no_references, subject.release.exposes, before)
        whole = access is Access.WEIGHTS or not subject.release.defended
        if not reason and requirement.attacks is None:
            reason = threat.left_to_others(exposure) if whole else ""
            reason = reason or _left_to_profile(choice.attack, profile)
        if reason:
            obstacles.append(Obstacle(choice.name, reason, named=requirement.attacks is not None))
        else:
            runnable.append(choice)
    return runnable, obstacles


def _left_to_profile(attack: Attack, profile: str) -> str:
    """Why it does not run in this profile unless it is named; empty where it does."""
    if profile_of(attack) in {"standard", profile}:
        return ""
    return f"it is costly: run with --profile {profile_of(attack)}, or name it to run it"


def _suite(requirement: Requirement, profile: str) -> Iterable[AttackChoice]:
    """Every attack of the kind that the measure reads, with the defaults of its paper or those of the profile."""
    kind = requirement.measure.reads
    for name in registry.names("attacks"):
        if name.startswith(f"{kind}."):
            attack = cast(Attack, registry.load("attacks", name)())
            if attack.threat.goal in requirement.measure.goals:
                yield AttackChoice(name, parameters_under(attack, profile))


def _job(choice: AttackChoice, subject: Subject, seed: int, sizes: Sizes) -> Job:
    attack = choice.attack
    parameters, targets = parameters_of(attack), _targets(attack, subject, sizes)
    # Where every answer is the same, asking again tells nothing, and nobody does.
    repeats = getattr(attack, "repeats", 1) if subject.release.noisy else 1
    once = replace(attack, repeats=1) if hasattr(attack, "repeats") and repeats == 1 else attack  # type: ignore[type-var]
    queries = once.queries(targets, sizes.auxiliary)
    references: int = attack.references if attack.threat.references else 0  # type: ignore[attr-defined]
    return Job(choice.name, attack, derive(seed, choice.name, parameters), queries, references, targets, repeats)


def _targets(attack: Attack, subject: Subject, sizes: Sizes) -> int:
    """How many candidates, classes or records an attack meets; whole batches of them, where gradients pass by."""
    batch = subject.release.batch if attack.threat.watches else 1
    wanted = min(max(getattr(attack, "victims", VICTIMS), batch), sizes.members)
    return {
        Goal.MEMBERSHIP: sizes.members + sizes.nonmembers,
        Goal.RISK: sizes.members + sizes.nonmembers,
        Goal.CLASS: subject.task.classes,
        Goal.RECORD: wanted - wanted % batch,
        Goal.UPDATE: sizes.update,
    }[attack.threat.goal]


def _missing(
    requirement: Requirement, subject: Subject, runnable: list[AttackChoice], obstacles: list[Obstacle]
) -> str:
    """Why a requirement cannot be measured at all."""
    reads = requirement.measure.reads
    needs = {
        Reads.MEMBERSHIP: ("members", "nonmembers"),
        Reads.INVERSION: ("members", "auxiliary"),
        Reads.PREDICTIONS: ("nonmembers",),
        Reads.ACCOUNT: (),
    }[reads]
    absent = [f"spec.data.{name}" for name in needs if getattr(subject, name) is None]
    if absent:
        return f"the subject names no {' and no '.join(absent)}"
    if reads in {Reads.MEMBERSHIP, Reads.INVERSION} and not runnable:
        why = "".join(f": {obstacle.attack}: {obstacle.reason}" for obstacle in obstacles[:1])
        return f"no attack of its kind can be mounted by this adversary on this release{why}"
    return ""
