"""From measurements to findings, and from findings to one verdict. What was not measured is never a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from .errors import Exit
from .measure import Reads
from .measurement import Basis, Measurement
from .observation import Goal, Membership, Observation
from .plan import CLASS_NULLS, AccountOutcome, Assignment, ControlRun, Outcome
from .policy import Direction, Requirement
from .shift import Shift


class Status(StrEnum):
    """What can be said of a requirement."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not-run"
    ERROR = "error"
    WAIVED = "waived"


#: Worst first. A violation is shown whatever else broke (docs/adr/0004).
_WORST_FIRST = (Status.FAIL, Status.ERROR, Status.NOT_RUN, Status.INCONCLUSIVE, Status.WAIVED, Status.PASS)
_EXIT = {
    Status.FAIL: Exit.FAIL,
    Status.ERROR: Exit.CRASHED,
    Status.NOT_RUN: Exit.UNDECIDED,
    Status.INCONCLUSIVE: Exit.UNDECIDED,
    Status.WAIVED: Exit.PASS,
    Status.PASS: Exit.PASS,
}


class AttackStatus(StrEnum):
    """What became of one attack."""

    RAN = "ran"
    NOT_RUN = "not-run"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Control:
    """Whether the instrument was tested, and held.

    Attributes:
        measurement: What the same measure gave where the answer is known; `None` where it did not run.
        ok: Whether it was as it must be.
        reason: What it was, and what is wrong with it if it is not ok.
    """

    measurement: Measurement | None
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AttackFinding:
    """What one attack says of one requirement.

    Attributes:
        name: The attack.
        status: Whether it ran.
        reason: Why not, or what makes its word worthless; empty where it counts.
        named: Whether the policy named it.
        measurement: What it measured, if it ran.
        positive: The leaky twin; `None` where the attack did not run.
        negative: The null; likewise.
    """

    name: str
    status: AttackStatus
    reason: str
    named: bool
    measurement: Measurement | None = None
    positive: Control | None = None
    negative: Control | None = None

    @property
    def sighted(self) -> bool:
        """Whether it found the leak that was planted for it."""
        return self.positive is not None and self.positive.ok

    @property
    def fair(self) -> bool:
        """Whether it found nothing where there was nothing."""
        return self.negative is not None and self.negative.ok


@dataclass(frozen=True, slots=True)
class Finding:
    """What can be said of one requirement, and why.

    Attributes:
        requirement: The requirement.
        status: What can be said.
        measurement: The worst of what counts; `None` where nothing was measured.
        by: The attack or account that it comes from.
        reason: One line: why it is so. Empty for a pass.
        remedy: One line: what to do. Empty for a pass.
        attacks: What every attack of its kind did.
        protection: Whether the training or the interface keeps it, where the interface keeps something back.
        records_needed: About how many records would decide it; `None` where more would not help or none are needed.
    """

    requirement: Requirement
    status: Status
    measurement: Measurement | None
    by: str
    reason: str = ""
    remedy: str = ""
    attacks: tuple[AttackFinding, ...] = ()
    records_needed: int | None = None
    protection: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst of its findings.

    Attributes:
        findings: At least one: an empty list must not be trivially fine.
        refutations: Claims that the attacks refuted; each is a failure of its own.
    """

    findings: tuple[Finding, ...]
    refutations: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if not self.findings:
            raise ValueError("a verdict needs at least one finding")

    @property
    def status(self) -> Status:
        """The worst status of all."""
        found = {finding.status for finding in (*self.findings, *self.refutations)}
        return next(status for status in _WORST_FIRST if status in found)

    @property
    def exit_code(self) -> Exit:
        """What the command line ends in."""
        return _EXIT[self.status]


def compare(measurement: Measurement, direction: Direction, limit: float) -> Status:
    """Hold an interval against a limit. NaN lands in INCONCLUSIVE, because every comparison with it is false."""
    if not math.isfinite(limit) or math.isnan(measurement.value):
        return Status.INCONCLUSIVE
    if direction is Direction.MAX:
        passes, fails = measurement.high <= limit, measurement.low > limit
    else:
        passes, fails = measurement.low >= limit, measurement.high < limit
    return Status.PASS if passes else Status.FAIL if fails else Status.INCONCLUSIVE


def judge_account(requirement: Requirement, outcome: AccountOutcome) -> Finding:
    """Hold what the ledger proves, or the subject claims, against its limit."""
    if outcome.measurement is not None:
        by = "ledger" if outcome.measurement.basis is Basis.PROVED else "claim"
        return judge_measured(requirement, outcome.measurement, by)
    if outcome.missing:
        return Finding(requirement, Status.NOT_RUN, None, "", outcome.missing, _REMEDY_ACCOUNT)
    return judge_failed(requirement, outcome.failed)


def judge_failed(requirement: Requirement, reason: str) -> Finding:
    """A requirement whose measuring failed is an error, never a pass."""
    return Finding(requirement, Status.ERROR, None, "", reason, _REMEDY_CRASH)


_REMEDY_ACCOUNT = "train with `midguard train`, or name the ledger under spec.ledger"
_REMEDY_CRASH = "run again with MIDGUARD_TRACEBACK=1; where it is midguard's fault, report it"


def judge_measured(requirement: Requirement, found: Measurement, by: str) -> Finding:
    """Hold one measurement that needs no control against its limit."""
    status = compare(found, requirement.direction, requirement.limit)
    if status is Status.PASS:
        return Finding(requirement, status, found, by)
    needed = records_needed(found, requirement.limit) if status is Status.INCONCLUSIVE else None
    reason, remedy = _words(requirement, found, status, needed)
    return Finding(requirement, status, found, by, reason, remedy, (), needed)


def judge_attacked(assignment: Assignment, outcomes: Mapping[str, Outcome], shift: Shift | None = None) -> Finding:
    """Hold what the attacks of one requirement achieved against its limit; the worst of them counts.

    Args:
        assignment: The requirement, and whose outcome decides it.
        outcomes: What became of every job.
        shift: Whether members and nonmembers differ by themselves; then nothing is shown of membership, either way.
    """
    requirement = assignment.requirement
    named = requirement.attacks is not None
    attacks = tuple(
        _attack_finding(outcomes[identity], requirement, assignment.alpha, named) for identity in assignment.jobs
    )
    left_out = tuple(AttackFinding(o.attack, AttackStatus.NOT_RUN, o.reason, o.named) for o in assignment.obstacles)
    ran = [attack for attack in attacks if attack.measurement is not None]
    everything = attacks + left_out
    if assignment.missing or not attacks:
        why = assignment.missing or "none of its attacks can be mounted by this adversary"
        return Finding(requirement, Status.NOT_RUN, None, "", why, _remedy_not_run(left_out), everything)
    if ran and requirement.measure.reads is Reads.MEMBERSHIP and shift is not None and (shift.found or shift.untested):
        return _shifted(requirement, shift, ran, everything)
    for rule in (_violated, _crashed, _not_dropped, _unmeasured, _undecided):
        finding = rule(requirement, ran, everything)
        if finding:
            return finding
    worst = _worst(requirement, [attack for attack in ran if attack.sighted])
    return Finding(requirement, Status.PASS, worst.measurement, worst.name, attacks=everything)


def _shifted(
    requirement: Requirement, shift: Shift, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]
) -> Finding:
    """Where the records tell members from nonmembers without any model, an attack's success says nothing of it."""
    worst = _worst(requirement, ran)
    if shift.untested:
        reason = f"whether members and nonmembers differ by themselves is not known: {shift.untested}"
    else:
        by = ", ".join(feature.name for feature in shift.features) or "no single value, but all of them together"
        reason = f"shift: without the model, members and nonmembers are told apart (p = {shift.p:.2g}) by {by}"
    return Finding(requirement, Status.INCONCLUSIVE, worst.measurement, worst.name, reason, _REMEDY_UNFAIR, attacks)


def _violated(requirement: Requirement, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]) -> Finding | None:
    """A violation is shown as soon as one attack shows it, if it finds nothing where there is nothing."""
    shown = [a for a in ran if _status(a, requirement) is Status.FAIL and a.fair]
    if not shown:
        return None
    worst = _worst(requirement, shown)
    assert worst.measurement is not None
    reason, remedy = _words(requirement, worst.measurement, Status.FAIL, None)
    return Finding(requirement, Status.FAIL, worst.measurement, worst.name, reason, remedy, attacks)


def _crashed(requirement: Requirement, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]) -> Finding | None:
    """An attack that stopped in the middle leaves the requirement open, and is an error."""
    broken = [a for a in attacks if a.status is AttackStatus.CRASHED]
    if not broken:
        return None
    reason = f"{broken[0].name} stopped: {broken[0].reason}"
    return Finding(requirement, Status.ERROR, None, broken[0].name, reason, _REMEDY_CRASH, attacks)


def _not_dropped(
    requirement: Requirement, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]
) -> Finding | None:
    """An attack that the policy names and that cannot be mounted leaves the requirement unmeasured."""
    dropped = [a for a in attacks if a.status is AttackStatus.NOT_RUN and a.named]
    if not dropped:
        return None
    reason = f"the policy names {dropped[0].name}, but {dropped[0].reason}"
    worst = _worst(requirement, ran) if ran else None
    found, by = (worst.measurement, worst.name) if worst else (None, "")
    return Finding(requirement, Status.NOT_RUN, found, by, reason, _remedy_not_run(tuple(dropped)), attacks)


def _unmeasured(
    requirement: Requirement, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]
) -> Finding | None:
    """Where no attack came to an outcome, nothing was measured."""
    if ran:
        return None
    return Finding(requirement, Status.NOT_RUN, None, "", attacks[0].reason, _remedy_not_run(attacks), attacks)


def _undecided(
    requirement: Requirement, ran: list[AttackFinding], attacks: tuple[AttackFinding, ...]
) -> Finding | None:
    """Everything that keeps a requirement from being shown to hold."""
    unfair = [a for a in ran if not a.fair]
    blind = [a for a in ran if not a.sighted and (a.named or not _shows_nothing(a, requirement))]
    sighted = [a for a in ran if a.sighted]
    straddling = [a for a in sighted if _status(a, requirement) is not Status.PASS]
    if unfair:
        worst, reason, remedy = unfair[0], _control_reason(unfair[0].negative), _REMEDY_UNFAIR
    elif straddling:
        worst = _worst(requirement, straddling)
        assert worst.measurement is not None
        needed = records_needed(worst.measurement, requirement.limit)
        reason, remedy = _words(requirement, worst.measurement, Status.INCONCLUSIVE, needed)
        return Finding(requirement, Status.INCONCLUSIVE, worst.measurement, worst.name, reason, remedy, attacks, needed)
    elif blind or not sighted:
        worst = _worst(requirement, blind or ran)
        reason, remedy = _control_reason(worst.positive), _REMEDY_BLIND
    else:
        return None
    return Finding(
        requirement, Status.INCONCLUSIVE, worst.measurement, worst.name, f"{worst.name}: {reason}", remedy, attacks
    )


_REMEDY_UNFAIR = "draw members and nonmembers from the same source at random, then train and check again"
_REMEDY_BLIND = "name other attacks, or another measure beside this one on which the twin's leak shows"


def _control_reason(control: Control | None) -> str:
    return control.reason if control else "its controls did not run"


def _remedy_not_run(left_out: tuple[AttackFinding, ...]) -> str:
    return (
        f"give what {left_out[0].name} needs, or change the policy's attacks or adversary"
        if left_out
        else "complete the subject's model.yaml"
    )


def _status(attack: AttackFinding, requirement: Requirement) -> Status:
    assert attack.measurement is not None
    return compare(attack.measurement, requirement.direction, requirement.limit)


def _shows_nothing(attack: AttackFinding, requirement: Requirement) -> bool:
    """Whether it is within the limit; of an inversion also, whether it is no closer than where nothing leaks.

    A pixel distance over ten classes has an interval without an end, whatever the attack does, and would keep open what
    other attacks have shown.
    """
    assert attack.measurement is not None
    value, nothing = attack.measurement.value, requirement.measure.no_leak()
    harmless = value <= nothing if requirement.direction is Direction.MAX else value >= nothing
    inverted = requirement.measure.reads is Reads.INVERSION
    return (inverted and harmless) or _status(attack, requirement) is Status.PASS


def _worst(requirement: Requirement, attacks: list[AttackFinding]) -> AttackFinding:
    """The attack whose interval reaches furthest towards a leak; one that measured nothing is worse than any."""

    def reach(attack: AttackFinding) -> float:
        assert attack.measurement is not None
        end = attack.measurement.high if requirement.direction is Direction.MAX else -attack.measurement.low
        return math.inf if math.isnan(end) else end

    return max(attacks, key=reach)


def _attack_finding(outcome: Outcome, requirement: Requirement, alpha: float, named: bool) -> AttackFinding:
    """Measure one outcome and its controls alike."""
    name = outcome.job.name
    if outcome.observation is None:
        status = AttackStatus.NOT_RUN if outcome.unmeasurable else AttackStatus.CRASHED
        return AttackFinding(name, status, outcome.reason, named)
    try:
        found = requirement.measure.measure(outcome.observation, alpha)
        positive = _positive(outcome.positive, requirement, alpha)
        negative = _negatives(outcome, requirement, alpha)
    except Exception as error:  # a measure that breaks leaves its requirement in error, the others standing
        return AttackFinding(name, AttackStatus.CRASHED, f"{type(error).__name__}: {error}", named)
    doubt = [c.reason for c in (positive, negative) if not c.ok]
    if not found.finite:
        doubt.insert(0, "it gave no usable answer (NaN)")
    return AttackFinding(name, AttackStatus.RAN, "; ".join(doubt), named, found, positive, negative)


def _positive(run: ControlRun, requirement: Requirement, alpha: float) -> Control:
    """The leaky twin must itself fail, or the attack could not have found a violation here (docs/adr/0005)."""
    found = _measured(run.observation, requirement, alpha)
    if found is None:
        return Control(None, False, f"no leaky twin to test it on: {run.reason}")
    if compare(found, requirement.direction, requirement.limit) is Status.FAIL:
        return Control(found, True, run.reason)
    return Control(
        found, False, f"it did not find the leak planted for it ({run.reason}), so it could not have found one here"
    )


def _negatives(outcome: Outcome, requirement: Requirement, alpha: float) -> Control:
    """The null, or whatever else the attack found a leak in where there is none; together they spend one error."""
    goal = outcome.job.attack.threat.goal
    missing = ControlRun(None, "it did not run")
    further = [outcome.rows.get(role, missing) for role in CLASS_NULLS if goal is Goal.CLASS]
    runs = [outcome.negative, *further]
    found = [_negative(run, requirement, alpha / len(runs)) for run in runs]
    return next((control for control in found if not control.ok), found[0])


def _negative(run: ControlRun, requirement: Requirement, alpha: float) -> Control:
    """Where there is nothing to find, nothing must be found, in either direction."""
    found = _measured(run.observation, requirement, alpha)
    if found is None:
        return Control(None, False, f"no null to test it on: {run.reason}")
    if not found.finite:
        return Control(found, False, f"on the null it gave no usable answer ({run.reason})")
    nothing = requirement.measure.no_leak()
    consistent = found.low <= nothing if requirement.direction is Direction.MAX else found.high >= nothing
    if consistent and not tells_apart(run.observation, alpha):
        return Control(found, True, run.reason)
    return Control(
        found, False, f"it finds a leak where there is none ({run.reason}): the records differ by themselves"
    )


def tells_apart(observation: Observation | None, alpha: float) -> bool:
    """Whether scores tell members from nonmembers, whichever of them they rate higher.

    Nonmembers that look more like members than members do would hide a leak as well as make one up; and a measure at a
    small FPR may not see a shift that is there.
    """
    from .statistics import shifted

    return isinstance(observation, Membership) and shifted(
        observation.scores, observation.members, alpha, observation.persons
    )


def _measured(observation: Observation | None, requirement: Requirement, alpha: float) -> Measurement | None:
    return None if observation is None else requirement.measure.measure(observation, alpha)


def records_needed(found: Measurement, limit: float) -> int | None:
    """About how many records would decide it: an interval narrows with the root of their number.

    `None` where the point estimate is on the limit, or the interval has no width to narrow.
    """
    end = found.high if found.value <= limit else found.low
    gap, width = abs(found.value - limit), abs(end - found.value)
    if not (math.isfinite(gap) and math.isfinite(width)) or gap == 0 or width == 0 or found.records == 0:
        return None
    return max(found.records + 1, math.ceil(found.records * (width / gap) ** 2))


def _words(requirement: Requirement, found: Measurement, status: Status, needed: int | None) -> tuple[str, str]:
    """Why it is so, and what to do."""
    limit, what = f"{requirement.limit:g}", requirement.measure_name
    towards = "at most" if requirement.direction is Direction.MAX else "at least"
    if not found.finite:
        return (f"{what} could not be estimated: some answers were not numbers", "see why the model answers NaN")
    if status is Status.FAIL:
        end = found.low if requirement.direction is Direction.MAX else found.high
        side = "at least" if requirement.direction is Direction.MAX else "at most"
        if math.isinf(found.value):
            return f"{what} has no bound, {towards} {limit} is allowed", _advice(requirement)
        return f"{what} is {side} {end:.3g}, {towards} {limit} is allowed", _advice(requirement)
    reason = f"{what} lies between {found.low:.3g} and {found.high:.3g}, {towards} {limit} is allowed: not shown"
    more = (
        f"about {needed:,} records would decide it (now {found.records:,})"
        if needed
        else "more records, or a stronger defense"
    )
    return reason, more


def _advice(requirement: Requirement) -> str:
    kind = requirement.measure_name.split(".", maxsplit=1)[0]
    return {
        "membership": "train for fewer epochs, on more records or with DP-SGD; release the label alone",
        "inversion": "release less (rounded, top-k, label alone), keep the weights back, or train with a defense",
        "privacy": "train with DP-SGD at a smaller target_epsilon",
        "utility": "train longer or with a larger budget; the guarantee may cost too much here",
    }.get(kind, "change the model or its release and check again")


def explain_protection(finding: Finding, opened: Mapping[str, Observation], alpha: float) -> Finding:
    """Say which defense closes the gap: what the attacks achieve on the same model behind an open interface.

    Args:
        finding: What can be said behind the interface as it is.
        opened: Outcomes behind an open one, by attack; empty where there is nothing to open or nothing is known.
        alpha: The error that each interval may spend.
    """
    if not opened or finding.status is not Status.PASS:
        return finding
    requirement = finding.requirement
    measured = {name: requirement.measure.measure(seen, alpha) for name, seen in opened.items()}
    found = [AttackFinding(name, AttackStatus.RAN, "", False, m) for name, m in measured.items()]
    # One that comes no closer than where nothing leaks says nothing of the training, however wide its interval is.
    telling = [attack for attack in found if not _shows_nothing(attack, requirement)]
    worst = _worst(requirement, telling or found)
    assert worst.measurement is not None
    return replace(finding, protection=_protection(requirement, worst.name, worst.measurement))


def judge_proved(finding: Finding, proved: Measurement | None) -> Finding:
    """The finding, met by proof where the attacks alone could not show that it is; nothing else is changed by a proof.

    Args:
        finding: What the attacks say. A violation that they show stands, and so does everything that stopped them.
        proved: What no attack exceeds, by midguard's own ledger; `None` where nothing is proved.
    """
    requirement = finding.requirement
    if finding.status is not Status.INCONCLUSIVE or proved is None or proved.basis is not Basis.PROVED:
        return finding
    if compare(proved, requirement.direction, requirement.limit) is not Status.PASS:
        return finding
    words = (
        f"met by proof: by the ledger, no attack reaches more than {proved.high:.3g}; by the attacks alone, not shown"
    )
    return Finding(requirement, Status.PASS, proved, "ledger", attacks=finding.attacks, protection=words)


def _protection(requirement: Requirement, attack: str, found: Measurement) -> str:
    said = f"{attack} reaches {found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"
    status = compare(found, requirement.direction, requirement.limit)
    if status is Status.PASS:
        return f"the training keeps it: with every score released, {said}, which would pass as well"
    if status is Status.FAIL:
        return f"the interface keeps it, not the training: with every score released, {said}, which would fail"
    return f"the training alone was not shown to keep it: with every score released, {said}"
