"""The whole gate on tiny models: how often it is wrong where nothing leaks, and what the order of rows does to it.

Every run trains a subject, lays it out with a recipe and checks it. Where the truth must be that nothing leaks, the
subject was trained on records that are neither its members nor its nonmembers: all of its answers, and all of the
attacks', would be the same had the two been swapped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from midguard.engine.check import Checked, check
from midguard.engine.observation import Goal, Membership
from midguard.engine.policy import Requirement
from midguard.engine.recipe import load_recipe
from midguard.engine.target import Records
from midguard.engine.training import fit
from midguard.engine.verdict import Status, compare, judge_attacked

ALPHA = 0.05
COLUMNS, CLASSES = 10, 3
SIZES = {"members": 120, "nonmembers": 120, "auxiliary": 60}
#: Steps of a control model in the calibrations. A short twin is a poor one, which costs passes and nothing else: no
#: failure, no null and no shift depends on it.
FEW_STEPS = 100

ABOUT = """
  task: {kind: classification, classes: 3, input: [10], range: [-20, 20]}
  data:
    members: {file: members.npz}
    nonmembers: {file: nonmembers.npz}
    auxiliary: {file: auxiliary.npz}
"""
RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: points, version: "1"}
spec:
  architecture: {name: mlp, hidden: [%(hidden)d]}
  optimizer: {name: adam, lr: %(lr).12f}
  epochs: %(epochs)d
  batch_size: 32
  seed: 1
  release: %(release)s
"""
MODEL = """
apiVersion: midguard.dev/v1
kind: Subject
metadata: {name: points, version: "1"}
spec:
  model: {file: model.pt, architecture: {name: mlp, hidden: [%(hidden)d]}}
  release: %(release)s
  training: {recipe: recipe.yaml}
"""
#: True where the subject never saw its members.
NOTHING_CLAIMED = "  claims: {epsilon: 0, delta: 1.0e-5}\n"
POLICY = """
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: calibration, version: "1", owner: privacy-office@example.org}
spec:
  adversary: {access: release}
  confidence: 0.95
  requirements:
"""
PROBABILITIES, ROUNDED = "{exposes: probabilities}", "{exposes: probabilities, decimals: 1}"

#: Every attack on membership that needs no weights and no label-only release, with a few models and small trees.
SUITE = ", ".join(
    [
        *(
            f"membership.{name}"
            for name in ("loss", "confidence", "entropy", "modified_entropy", "label", "population")
        ),
        "{name: membership.quantile, folds: 2, trees: 10}",
        *(f"{{name: membership.{n}, references: 4}}" for n in ("lira", "bavaria", "rmia", "attack_r", "shadow")),
    ]
)
#: Limits at no leak: whatever fails them is a false alarm.
NO_LEAK = (
    "id: advantage, measure: membership.advantage, max: 0",
    "id: tpr, measure: membership.tpr, at: {fpr: 0.1}, max: 0.1",
    "id: auc, measure: membership.auc, max: 0.5",
    "id: exposed, measure: membership.exposed_records, max: 0",
    "id: group, measure: membership.worst_group, max: 0",
    "id: epsilon, measure: membership.epsilon, at: {fpr: 0.05}, max: 0",
)


def most(runs: int, alpha: float = ALPHA) -> float:
    """The largest rate that luck allows a sound statement: its error and three standard errors of the simulation."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def tell(*cells: object) -> None:
    sys.stderr.write("  ".join(str(cell) for cell in cells) + "\n")
    sys.stderr.flush()


# --- subjects whose truth is known -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What a subject is made of.

    Attributes:
        hidden: Width of its network.
        epochs: How long it and its references are trained.
        lr: How far each step goes.
        release: What it answers.
        knows: Whether it was trained on its members; on other records otherwise.
        noise: Share of random labels, in every set.
        shift: By how much the first column of the nonmembers is moved, in standard deviations within a class.
    """

    hidden: int = 8
    epochs: int = 5
    lr: float = 0.01
    release: str = PROBABILITIES
    knows: bool = False
    noise: float = 0.1
    shift: float = 0.0


def points(n: int, noise: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three overlapping clouds."""
    y = rng.integers(0, CLASSES, n)
    x = rng.normal(size=(n, COLUMNS)).astype(np.float32)
    x[np.arange(n), y] += 1.5
    return {"x": x, "y": np.where(rng.random(n) < noise, rng.integers(0, CLASSES, n), y).astype(np.int64)}


def lay_out(folder: Path, kind: Kind, seed: int, requirements: Iterable[str], attacks: str = SUITE) -> None:
    """A subject with its records and recipe, and a policy beside it."""
    import torch

    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    sets = {name: points(n, kind.noise, rng) for name, n in SIZES.items()}
    others = points(SIZES["members"], kind.noise, rng)
    sets["nonmembers"]["x"][:, 0] += kind.shift
    for name, arrays in sets.items():
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    values = vars(kind)
    (folder / "recipe.yaml").write_text(RECIPE % values + ABOUT.lstrip("\n"))
    claim = "" if kind.knows else NOTHING_CLAIMED
    (folder / "model.yaml").write_text(MODEL % values + claim + ABOUT.lstrip("\n"))
    lines = (f"    - {{severity: high, {each}, attacks: [{attacks}]}}\n" for each in requirements)
    (folder / "policy.yaml").write_text(POLICY + "".join(lines))
    learnt = Records(**(sets["members"] if kind.knows else others))
    module = fit(load_recipe(folder / "recipe.yaml", data=False), learnt, seed).module
    torch.save(module.state_dict(), folder / "model.pt")


def checked(folder: Path, seed: int) -> Checked:
    """Nothing is taken from an earlier check."""
    with TemporaryDirectory() as store:
        return check(folder / "policy.yaml", folder / "model.pt", seed=seed, store=store)


# --- nothing leaks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What became of one check.

    Attributes:
        statuses: Of every requirement.
        failed: Of the whole policy.
        refuted: Whether the claim, which is true, was refuted.
        alarms: Which attack failed which measure by itself, with all of the 5 %.
        unfair: Attacks that found a leak on the null, by requirement.
        shifted: Whether members and nonmembers were said to differ.
        tried: Attacks that ran, by requirement.
    """

    statuses: dict[str, Status]
    failed: bool
    refuted: bool
    alarms: tuple[tuple[str, str], ...]
    unfair: dict[str, int]
    shifted: bool
    tried: dict[str, int]


def alarms(found: Checked) -> Iterator[tuple[str, str]]:
    """Every attack and measure on its own: what a policy of this one requirement and attack would have said."""
    for outcome in found.outcomes.values():
        for requirement in (f.requirement for f in found.verdict.findings):
            if outcome.observation is not None and fits(requirement, outcome.job.attack.threat.goal):
                measured = requirement.measure.measure(outcome.observation, ALPHA)
                if compare(measured, requirement.direction, requirement.limit) is Status.FAIL:
                    yield requirement.id, outcome.job.name


def fits(requirement: Requirement, goal: Goal) -> bool:
    return goal in requirement.measure.goals


def summary(found: Checked) -> Run:
    findings = found.verdict.findings
    return Run(
        {f.requirement.id: f.status for f in findings},
        found.verdict.status is Status.FAIL,
        bool(found.verdict.refutations),
        tuple(alarms(found)),
        {f.requirement.id: sum(not attack.fair for attack in f.attacks) for f in findings},
        any(f.reason.startswith("shift:") for f in findings),
        {f.requirement.id: sum(attack.measurement is not None for attack in f.attacks) for f in findings},
    )


def one_run(kind: Kind, seed: int, requirements: tuple[str, ...], attacks: str) -> Run:
    """In a process of its own, on one thread."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr("midguard.engine.controls._STEPS", FEW_STEPS)
        lay_out(Path(folder), kind, seed, requirements, attacks)
        return summary(checked(Path(folder), seed))


def many_runs(kinds: list[tuple[Kind, int]], requirements: tuple[str, ...], attacks: str) -> list[Run]:
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=-1)(delayed(one_run)(kind, seed, requirements, attacks) for kind, seed in kinds)
    return list(found)


def table(name: str, runs: list[Run]) -> None:
    """A line for every measure."""
    tell(f"{name}, {len(runs)} runs")
    for which in runs[0].statuses:
        statuses = [run.statuses[which] for run in runs]
        tried = max(run.tried[which] for run in runs)
        alone = [sum(alarm == (which, attack) for run in runs for alarm in run.alarms) for attack in attacks_of(runs)]
        cells = (f"{status} {statuses.count(status):>3}" for status in Status if status in statuses)
        unclean = sum(run.unfair[which] > 0 for run in runs)
        tell(
            f"  {which:<10} {tried:>2} attacks  ", f"null not clean {unclean:>3}",
            f"one attack at 5 %: fails at most {max(alone, default=0):>3}, mean {np.mean(alone or [0]):.2f}", *cells,
        )  # fmt: skip
    tell(
        f"  the policy: fail {sum(r.failed for r in runs)}, claim refuted {sum(r.refuted for r in runs)},",
        f"shift {sum(r.shifted for r in runs)}, null not clean {sum(any(r.unfair.values()) for r in runs)}",
    )


def attacks_of(runs: list[Run]) -> list[str]:
    return sorted({attack for run in runs for _, attack in run.alarms})


def hold(runs: list[Run]) -> None:
    """Every requirement, every measure with any one attack, the policy, its claim, the nulls and the shift test."""
    allowed = most(len(runs)) * len(runs)
    for which in runs[0].statuses:
        assert sum(run.statuses[which] is Status.FAIL for run in runs) <= allowed, which
        assert not any(run.statuses[which] in (Status.ERROR, Status.NOT_RUN) for run in runs), which
        for attack in attacks_of(runs):
            assert sum((which, attack) in run.alarms for run in runs) <= allowed, (which, attack)
    assert sum(run.failed for run in runs) <= allowed
    assert sum(run.refuted for run in runs) <= allowed
    assert sum(any(run.unfair.values()) for run in runs) <= allowed
    assert sum(run.shifted for run in runs) <= most(len(runs), 0.01) * len(runs)


@pytest.mark.calibrate
def test_a_subject_that_never_saw_its_members_does_not_fail() -> None:
    """200 checks, in every second of which the release is rounded until most records share their answer.

    An error of 5 % would exceed the bound in 2 of 1,000 repetitions; what is judged spends at most half of it on this
    side, so that the bound is all but never reached by chance.
    """
    kinds = [(Kind(release=PROBABILITIES if seed % 2 else ROUNDED), seed) for seed in range(200)]
    runs = many_runs(kinds, NO_LEAK, SUITE)
    table("never seen, release as it is", runs[1::2])
    table("never seen, one decimal", runs[::2])
    table("never seen, all", runs)
    assert {run.tried["auc"] for run in runs} == {12}
    hold(runs)


@pytest.mark.calibrate
def test_training_that_learns_nothing_puts_no_record_at_risk() -> None:
    """The risk is that of the training: 100 checks of one whose steps are too small to change an answer."""
    risk = ("id: risk, measure: membership.record_risk, at: {quantile: 0.9}, max: 0",)
    separation = "{name: membership.separation, references: 16}"
    runs = many_runs([(Kind(epochs=1, lr=1e-9), seed) for seed in range(100)], risk, separation)
    table("no training, risk of single records", runs)
    hold(runs)


# --- the nonmembers come from elsewhere ------------------------------------------------------------------------------


@pytest.mark.calibrate
def test_shifted_nonmembers_never_fail_and_never_pass() -> None:
    """20 checks, ten of subjects that know their members by heart. One and a half deviations cannot be overlooked.

    What is asserted is not idle: without the shift test, those of models that know their members would fail.
    """
    limits = ("id: advantage, measure: membership.advantage, max: 0.3", "id: auc, measure: membership.auc, max: 0.6")
    attacks = "membership.loss, membership.label, {name: membership.lira, references: 4}"
    by_heart = Kind(hidden=64, epochs=150, knows=True, noise=0.5, shift=1.5)
    found = {
        (knows, seed): shifted_run(by_heart if knows else Kind(shift=1.5), seed, limits, attacks)
        for knows in (False, True)
        for seed in range(10)
    }
    for knows in (False, True):
        mine = [run for (kind, _), run in found.items() if kind == knows]
        told = [status for run in mine for status in run.with_test]
        untested = [status for run in mine for status in run.without]
        who = "known by heart" if knows else "never seen"
        tell(f"shifted, members {who}: {counted(told)}; without the shift test {counted(untested)}")
    everything = list(found.values())
    assert all(status is Status.INCONCLUSIVE for run in everything for status in run.with_test)
    assert any(status is Status.FAIL for run in everything for status in run.without)
    assert all(reason.startswith("shift:") and "column 0" in reason for run in everything for reason in run.reasons)
    assert not any(run.refuted for run in everything)


@dataclass(frozen=True)
class ShiftedRun:
    """What was said, and what would have been said without the shift test."""

    with_test: tuple[Status, ...]
    reasons: tuple[str, ...]
    without: tuple[Status, ...]
    refuted: bool


def shifted_run(kind: Kind, seed: int, requirements: tuple[str, ...], attacks: str) -> ShiftedRun:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr("midguard.engine.controls._STEPS", FEW_STEPS)
        lay_out(Path(folder), kind, seed, requirements, attacks)
        found = checked(Path(folder), seed)
    findings = found.verdict.findings
    without = [judge_attacked(assignment, found.outcomes) for assignment in found.plan.assignments]
    return ShiftedRun(
        tuple(f.status for f in findings),
        tuple(f.reason for f in findings),
        tuple(f.status for f in without),
        bool(found.verdict.refutations),
    )


def counted(statuses: list[Status]) -> str:
    return ", ".join(f"{status} {statuses.count(status)}" for status in Status if status in statuses)


# --- order, copies, ties ---------------------------------------------------------------------------------------------

#: Two decimals: many records share their answer, and no rounding error of a matrix product shows.
TIED = Kind(hidden=64, epochs=150, release="{exposes: probabilities, decimals: 2}", knows=True, noise=0.5)
SPARED = Kind(hidden=64, epochs=2, release="{exposes: probabilities, decimals: 2}", noise=0.5)
WITHOUT_MODELS = (
    "membership.loss, membership.entropy, membership.label, membership.population, "
    "{name: membership.quantile, folds: 2, trees: 10}"
)
WITH_MODELS = "{name: membership.lira, references: 4}, {name: membership.rmia, references: 4}"
LIMITS = (
    "id: advantage, measure: membership.advantage, max: 0.4",
    "id: auc, measure: membership.auc, max: 0.7",
    "id: exposed, measure: membership.exposed_records, at: {precision: 0.6}, max: 0.1",
    "id: group, measure: membership.worst_group, max: 0.95",
    "id: epsilon, measure: membership.epsilon, at: {fpr: 0.1}, max: 0.5",
)
SEED = 7


def rewrite(folder: Path, order: dict[str, np.ndarray]) -> None:
    """The same records in another order, or some of them twice."""
    for name, rows in order.items():
        with np.load(folder / f"{name}.npz") as kept:
            arrays = {key: kept[key][rows] for key in kept.files}
        np.savez(folder / f"{name}.npz", **arrays)


def measured(found: Checked) -> dict[tuple[str, str], tuple[Status, float, float, float]]:
    """What every attack says of every requirement on the subject, with its interval."""
    told = {}
    for finding in found.verdict.findings:
        for attack in finding.attacks:
            m, requirement = attack.measurement, finding.requirement
            assert m is not None, attack.reason
            status = compare(m, requirement.direction, requirement.limit)
            told[requirement.id, attack.name] = (status, m.value, m.low, m.high)
    return told


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poor twins, where no verdict rests on them."""
    monkeypatch.setattr("midguard.engine.controls._STEPS", FEW_STEPS)


def both(folder: Path, kind: Kind, attacks: str, order: dict[str, np.ndarray]) -> tuple[Checked, Checked]:
    """The same check before and after."""
    lay_out(folder, kind, SEED, LIMITS, attacks)
    before = checked(folder, SEED)
    rewrite(folder, order)
    return before, checked(folder, SEED)


def permuted() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.permutation(n) for name, n in SIZES.items()}


def statuses(found: Checked) -> dict[str, Status]:
    return {f.requirement.id: f.status for f in found.verdict.findings}


@pytest.mark.usefixtures("short")
def test_the_order_of_rows_changes_nothing_that_attacks_without_models_say(tmp_path: Path) -> None:
    """On the subject, ties and all, but for the last digit of a sum; controls are drawn by position and may differ."""
    order = {name: rows for name, rows in permuted().items() if name != "auxiliary"}
    before, after = both(tmp_path, TIED, WITHOUT_MODELS, order)
    assert tied(before) > 50
    assert statuses(before) == statuses(after)
    first, second = measured(before), measured(after)
    assert first.keys() == second.keys()
    for at, (status, *numbers) in first.items():
        assert second[at][0] is status, at
        assert second[at][1:] == pytest.approx(numbers, abs=1e-9), at
    assert before.evidence["shift"] == after.evidence["shift"]


def tied(found: Checked) -> int:
    """How many records share the loss attack's score with another."""
    outcome = next(o for o in found.outcomes.values() if o.job.name == "membership.loss")
    assert isinstance(outcome.observation, Membership)
    _, counts = np.unique(outcome.observation.scores, return_counts=True)
    return int(counts[counts > 1].sum())


@pytest.mark.parametrize(("kind", "expected"), [(TIED, Status.FAIL), (SPARED, Status.PASS)], ids=["leaky", "spared"])
def test_the_order_of_rows_changes_no_verdict_of_attacks_with_models(
    tmp_path: Path, kind: Kind, expected: Status
) -> None:
    """Reference models are dealt halves of the pool by position: another order deals others, as another seed would."""
    before, after = both(tmp_path, kind, WITH_MODELS, permuted())
    assert statuses(before) == statuses(after)
    assert before.verdict.status is after.verdict.status
    assert (statuses(before)["advantage"], statuses(before)["auc"]) == (expected, expected)
    first, second = measured(before), measured(after)
    assert first.keys() == second.keys()
    for at in first:
        (_, value, _, _), (_, _, low, high) = first[at], second[at]
        assert low <= value <= high, at


@pytest.mark.usefixtures("short")
def test_a_record_that_stands_several_times_counts_once(tmp_path: Path) -> None:
    """Every outcome is the same to the last digit, that of every control too: more rows would narrow every interval."""
    attacks = f"membership.loss, membership.label, {WITH_MODELS}"
    again = {name: np.concatenate([np.arange(n), np.repeat(np.arange(0, n, 2), 3)]) for name, n in SIZES.items()}
    again["nonmembers"] = np.sort(again["nonmembers"])
    before, after = both(tmp_path, TIED, attacks, again)
    assert len(np.load(tmp_path / "members.npz")["x"]) == 2.5 * SIZES["members"]
    assert statuses(before) == statuses(after)
    assert measured(before) == measured(after)
    assert before.evidence["shift"] == after.evidence["shift"]
    for one, other in zip(before.outcomes.values(), after.outcomes.values(), strict=True):
        for a, b in ((one, other), (one.positive, other.positive), (one.negative, other.negative)):
            assert isinstance(a.observation, Membership)
            assert isinstance(b.observation, Membership)
            np.testing.assert_array_equal(a.observation.scores, b.observation.scores)
            np.testing.assert_array_equal(a.observation.members, b.observation.members)
