"""The measures of membership beyond averages: who is exposed, the worst group, single records, ε; and whose records."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from midguard.engine.document import read
from midguard.engine.errors import InputError
from midguard.engine.formats import choose_data
from midguard.engine.formats._records import content_digest
from midguard.engine.measure import Measure
from midguard.engine.measurement import Measurement
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.epsilon import Epsilon
from midguard.engine.measures.membership.exposed_records import ExposedRecords
from midguard.engine.measures.membership.record_risk import RecordRisk
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.membership.worst_group import WorstGroup
from midguard.engine.observation import Membership, Separation
from midguard.engine.policy import Direction
from midguard.engine.target import Records
from midguard.engine.verdict import Status, compare

NEW: tuple[Measure, ...] = (Epsilon(), ExposedRecords(), WorstGroup(), WorstGroup(of="tpr", fpr=0.1))
ALL: tuple[Measure, ...] = (Advantage(), Tpr(fpr=0.05), Auc(), *NEW)


def seen(n: int = 1000, leak: float = 0.0, seed: int = 0, classes: int = 4) -> Membership:
    """`n` of each kind, classes in turn, members `leak` higher."""
    members = np.arange(2 * n) < n
    scores = np.random.default_rng(seed).normal(size=2 * n) + leak * members
    return Membership(scores, members, np.arange(2 * n) % classes)


def details(found: Measurement) -> dict[str, float]:
    return {quantity.name: quantity.value for quantity in found.details}


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_a_planted_leak_is_found_and_nothing_is_found_in_noise(measure: Measure) -> None:
    leaky, null = measure.measure(seen(leak=4.0), 0.01), measure.measure(seen(), 0.01)
    halfway = (measure.no_leak() + measure.worst()) / 2
    assert compare(leaky, Direction.MAX, halfway) is Status.FAIL
    assert null.low <= measure.no_leak()
    assert compare(null, Direction.MAX, halfway) is Status.PASS


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_perfect_separation_is_the_worst_there_is(measure: Measure) -> None:
    members = np.arange(4000) < 2000
    found = measure.measure(Membership(members * 1.0, members, np.zeros(4000, dtype=np.int64)), 0.01)
    assert found.value == pytest.approx(measure.worst())
    assert found.high == pytest.approx(measure.worst())
    assert found.low > 0.95 * measure.worst()


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_constant_scores_leak_nothing(measure: Measure) -> None:
    found = measure.measure(dataclasses.replace(seen(), scores=np.full(2000, 0.3)), 0.01)
    assert found.low <= measure.no_leak()
    assert found.high < measure.no_leak() + 0.25 * (measure.worst() - measure.no_leak())


@pytest.mark.parametrize("measure", [m for m in ALL if not isinstance(m, Tpr)], ids=str)
def test_only_the_order_of_scores_counts(measure: Measure) -> None:
    """Any increasing change of the scores, infinite ends included, leaves every number where it was."""
    before = seen(300, 1.0)
    changed = np.exp(before.scores * 3)
    changed[before.scores.argmax()] = np.inf
    changed[before.scores.argmin()] = -np.inf
    assert measure.measure(dataclasses.replace(before, scores=changed), 0.05) == measure.measure(before, 0.05)


@pytest.mark.parametrize("measure", ALL, ids=str)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("persons", [False, True])
def test_the_order_of_rows_changes_nothing(measure: Measure, ties: bool, persons: bool) -> None:
    plain = seen(300, 1.0)
    scores = np.round(plain.scores) if ties else plain.scores
    before = dataclasses.replace(plain, scores=scores, persons=np.arange(600) // 3 if persons else None)
    order = np.random.default_rng(1).permutation(600)
    whose = None if before.persons is None else before.persons[order]
    after = Membership(before.scores[order], before.members[order], before.groups[order], whose)
    one, other = measure.measure(before, 0.05), measure.measure(after, 0.05)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-12)


@pytest.mark.parametrize("measure", NEW, ids=str)
@pytest.mark.parametrize("broken", ["one", "all"])
def test_a_score_that_is_no_number_says_nothing(measure: Measure, broken: str) -> None:
    scores = seen(leak=3.0).scores.copy()
    scores[: 1 if broken == "one" else None] = np.nan
    assert math.isnan(measure.measure(dataclasses.replace(seen(), scores=scores), 0.05).value)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_records_of_one_person_say_nothing(measure: Measure) -> None:
    everything = dataclasses.replace(seen(100, 3.0), persons=(np.arange(200) < 100).astype(np.int64))
    assert math.isnan(measure.measure(everything, 0.05).value)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_records_of_few_persons_widen_the_interval(measure: Measure) -> None:
    """Twenty records of one person with one score are one answer, not twenty."""
    plain = seen(50, 1.5, classes=2)
    copied = [np.repeat(part, 20) for part in (plain.scores, plain.members, plain.groups, np.arange(100))]
    scores, members, groups, persons = copied
    blind = measure.measure(Membership(scores, members, groups), 0.05)
    told = measure.measure(Membership(scores, members, groups, persons), 0.05)
    assert told.high - told.low > blind.high - blind.low
    assert details(told)["persons"] == 100
    assert "persons" not in details(blind)


@pytest.mark.parametrize(
    ("plugin", "values", "word"),
    [
        (Epsilon, {"delta": 1.0}, "delta"),
        (Epsilon, {"delta": math.nan}, "delta"),
        (Epsilon, {"fpr": 0.0}, "fpr"),
        (ExposedRecords, {"precision": 0.5}, "precision"),
        (ExposedRecords, {"precision": 1.0}, "precision"),
        (ExposedRecords, {"prior": 0.0}, "prior"),
        (WorstGroup, {"fpr": 1.0}, "fpr"),
        (WorstGroup, {"column": -1}, "column"),
        (RecordRisk, {"quantile": 1.0}, "quantile"),
        (RecordRisk, {"quantile": math.nan}, "quantile"),
    ],
)
def test_impossible_parameters_are_refused(plugin: type, values: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        plugin(**values)


# --- what is told beside the numbers ---------------------------------------------------------------------------------


def test_tpr_says_how_many_nonmembers_its_rate_wants() -> None:
    assert details(Tpr(fpr=0.001).measure(seen(), 0.05))["nonmembers needed at this FPR"] == 10_000
    assert details(Tpr(fpr=0.01).measure(seen(), 0.05))["nonmembers needed at this FPR"] == 1000


def test_the_smallest_advantage_that_could_be_shown_is_shown_and_a_smaller_one_is_not() -> None:
    """Planted exactly around one half, with a rule that needs no choosing."""
    smallest = details(Advantage().measure(seen(400), 0.05))["smallest advantage these records could show"]
    for gap, shows in ((smallest + 0.02, True), (smallest - 0.02, False)):
        k, members = round(400 * (0.5 + gap / 2)), np.arange(800) < 400
        scores = np.where(members, np.arange(800) < k, np.arange(800) - 400 < 400 - k).astype(float)
        found = Advantage().measure(Membership(scores, members, np.zeros(800, dtype=np.int64)), 0.05)
        assert (found.low > 0) is shows


def test_the_smallest_tpr_that_could_be_shown_shrinks_with_the_records() -> None:
    few, many = (
        details(Tpr(fpr=0.05).measure(seen(n), 0.05))["smallest TPR these records could show"] for n in (200, 5000)
    )
    assert 0.05 < many < 0.08 < few < 0.2


# --- exposed records, where the average hides them -------------------------------------------------------------------


def test_few_exposed_members_are_seen_where_the_average_looks_mild() -> None:
    rng, members = np.random.default_rng(7), np.arange(4000) < 2000
    scores = rng.normal(size=4000) + 8.0 * (np.arange(4000) < 100)
    hidden = Membership(scores, members, np.zeros(4000, dtype=np.int64))
    assert Advantage().measure(hidden, 0.05).high < 0.15
    found = ExposedRecords().measure(hidden, 0.05)
    assert found.low > 0.02
    assert found.low <= 0.05 <= found.high
    assert details(found)["members named"] / 2000 == pytest.approx(found.value)


def test_a_rarer_member_is_harder_to_be_sure_of() -> None:
    """At a prior of .1, a precision of .9 asks for odds of 81."""
    strong = seen(2000, 3.0)
    even, rare = (ExposedRecords(prior=prior).measure(strong, 0.05) for prior in (0.5, 0.1))
    assert rare.high < even.low


# --- groups ----------------------------------------------------------------------------------------------------------


def one_bad_class(n: int = 4000, bad: int = 3, seed: int = 0) -> Membership:
    plain = seen(n, 0.0, seed, classes=10)
    return dataclasses.replace(plain, scores=plain.scores + 4.0 * (plain.members & (plain.groups == bad)))


def test_one_overfit_class_is_found_and_named() -> None:
    found = WorstGroup().measure(one_bad_class(), 0.01)
    told = details(found)
    truth = 2 * stats.norm.cdf(2.0) - 1
    assert found.low <= truth <= found.high
    assert found.low > 0.85
    assert (told["worst class"], told["its members"], told["its others"], told["groups measured"]) == (3, 400, 400, 10)
    assert Advantage().measure(one_bad_class(), 0.01).high < 0.2


def test_looking_at_more_groups_costs_at_the_lower_end_alone() -> None:
    """The same leak in each of ten groups: the lower end is that of a tenth of alpha, the upper that of alpha."""
    leaky = seen(1000, 1.0, 3, classes=10)
    found, rows = WorstGroup().measure(leaky, 0.05), []
    for group in range(10):
        w = leaky.groups == group
        part = Membership(leaky.scores[w], leaky.members[w], leaky.groups[w])
        rows.append((Advantage().measure(part, 0.005).low, Advantage().measure(part, 0.05).high))
    assert found.low == max(low for low, _ in rows)
    assert found.high == max(high for _, high in rows)


def test_a_group_too_small_to_say_anything_cannot_pass() -> None:
    plain = seen(1000, classes=4)
    groups = plain.groups.copy()
    groups[0] = 99
    lonely = dataclasses.replace(plain, groups=groups)
    assert WorstGroup().measure(plain, 0.05).high < 0.5
    found = WorstGroup().measure(lonely, 0.05)
    assert found.high == 1.0
    assert details(found)["groups too small to say anything"] == 1
    assert WorstGroup(smallest=2).measure(lonely, 0.05).high < 0.5
    assert math.isnan(WorstGroup(smallest=100_000).measure(plain, 0.05).value)


@pytest.mark.parametrize("kind", ["few values", "many values"])
def test_groups_by_a_column_are_its_values_or_its_quartiles(kind: str) -> None:
    plain = seen(2000, seed=2)
    values = np.random.default_rng(3).random(4000)
    column = np.floor(values * 4) if kind == "few values" else values
    scores = plain.scores + 5.0 * (plain.members & (values >= 0.75))
    sliced = dataclasses.replace(plain, scores=scores, slices=np.stack([np.zeros(4000), column], axis=1))
    found = WorstGroup(by="column", column=1).measure(sliced, 0.05)
    assert found.low > 0.9
    assert details(found)["groups measured"] == 4
    assert details(found)["worst group's smallest value"] >= 0.7
    assert WorstGroup(by="column", column=0).measure(sliced, 0.05).high < 0.5


def test_a_column_that_is_not_there_is_an_error_and_no_pass() -> None:
    with pytest.raises(ValueError, match="column=0"):
        WorstGroup(by="column").measure(seen(), 0.05)
    with pytest.raises(ValueError, match="column=5"):
        WorstGroup(by="column", column=5).measure(dataclasses.replace(seen(), slices=np.zeros((2000, 2))), 0.05)


def test_values_that_are_no_numbers_are_a_group_of_their_own() -> None:
    plain = seen(2000, seed=2)
    column = np.random.default_rng(3).random((4000, 1))
    column[::10] = np.nan
    scores = plain.scores + 6.0 * (plain.members & np.isnan(column[:, 0]))
    found = WorstGroup(by="column").measure(dataclasses.replace(plain, scores=scores, slices=column), 0.05)
    assert found.low > 0.9
    assert details(found)["groups measured"] == 5


# --- ε ---------------------------------------------------------------------------------------------------------------


def test_epsilon_is_at_most_what_its_smallest_rate_allows() -> None:
    assert Epsilon(delta=0.0, fpr=0.01).worst() == pytest.approx(math.log(100))
    assert Epsilon(fpr=0.1).measure(seen(leak=9.0), 0.05).high == pytest.approx(math.log((1 - 1e-5) / 0.1))


# --- single records --------------------------------------------------------------------------------------------------


def separation(k: int, n: int, apart: float = 0.0, exposed: float = 1.0, seed: int = 0) -> Separation:
    """k models in complementary pairs; a share of the records is answered `apart` deviations higher where inside."""
    rng = np.random.default_rng(seed)
    half = rng.random((k // 2, n)) < 0.5
    inside = np.stack([half, ~half], axis=1).reshape(k, n)
    signals = rng.normal(size=(k, n)) + apart * (inside & (rng.random(n) < exposed)) + 2 * rng.normal(size=n)
    return Separation(signals, inside, np.arange(n) % 2 == 0, np.zeros(n, dtype=np.int64))


def test_record_risk_finds_the_tail_and_nothing_in_noise() -> None:
    leaky = RecordRisk().measure(separation(32, 2000, 3.0, 0.1), 0.05)
    truth = 2 * stats.norm.cdf(1.5) - 1
    assert leaky.low <= truth <= leaky.high
    assert leaky.low > 0.7
    assert leaky.records == 1000
    null = RecordRisk().measure(separation(32, 2000), 0.05)
    assert null.low == 0.0
    assert null.value < 0.15


def test_record_risk_is_that_of_members_alone() -> None:
    tail = separation(32, 4000)
    signals = tail.signals + 4.0 * (tail.inside & ~tail.members)
    assert RecordRisk().measure(dataclasses.replace(tail, signals=signals), 0.05).value < 0.2


@pytest.mark.parametrize("broken", ["few models", "NaN", "infinite", "one-sided", "no members"])
def test_record_risk_is_undetermined_where_nothing_can_be_told(broken: str) -> None:
    given = separation(14 if broken == "few models" else 16, 200, 3.0)
    signals, inside, members = given.signals.copy(), given.inside.copy(), given.members
    if broken == "NaN":
        signals[3, 5] = np.nan
    if broken == "infinite":
        signals[3, 5] = np.inf
    if broken == "one-sided":
        inside[:, 7] = True
    if broken == "no members":
        members = np.zeros(200, dtype=bool)
    found = RecordRisk().measure(Separation(signals, inside, members, given.groups), 0.05)
    assert not found.finite
    assert compare(found, Direction.MAX, 0.99) is Status.INCONCLUSIVE
    assert details(found)["models needed"] == 16


# --- whose records: from the file to the interval --------------------------------------------------------------------


def written(folder: Path, entry: str) -> Records:
    (folder / "model.yaml").write_text(f"data: {entry}\n", encoding="utf-8")
    document = read(folder / "model.yaml")
    return choose_data(document, ("data",)).read((2,), 3, (0.0, 1.0))


def table(folder: Path, persons: list[str]) -> None:
    lines = [f"{i / 10},{i / 20},{i % 3},{person}" for i, person in enumerate(persons)]
    (folder / "m.csv").write_text("a,b,kind,who\n" + "\n".join(lines) + "\n", encoding="utf-8")


def test_persons_of_a_table_are_no_feature_and_named_alike_in_every_file(tmp_path: Path) -> None:
    table(tmp_path, ["ann", "bob", "ann", "cid"])
    first = written(tmp_path, "{file: m.csv, label: kind, person: who}")
    assert first.x.shape == (4, 2)
    assert first.persons is not None
    assert first.persons[0] == first.persons[2]
    assert len(set(first.persons)) == 3
    table(tmp_path, ["dan", "ann"])
    second = written(tmp_path, "{file: m.csv, label: kind, person: who}")
    assert second.persons is not None
    assert second.persons[1] == first.persons[0]
    assert second.persons[0] not in first.persons


def test_numbered_persons_keep_their_numbers_and_follow_rows(tmp_path: Path) -> None:
    table(tmp_path, ["7", "7", "-3", "12"])
    found = written(tmp_path, "{file: m.csv, label: kind, columns: [a, b], person: who, rows: [1, 4]}")
    assert found.persons is not None
    assert found.persons.tolist() == [7, -3, 12]
    assert found.take(np.array([2, 0])).persons.tolist() == [12, 7]  # type: ignore[union-attr]


def test_persons_of_an_archive(tmp_path: Path) -> None:
    x, y = np.zeros((3, 2), dtype=np.float32), np.arange(3)
    np.savez(tmp_path / "m.npz", x=x, y=y, person=np.array([5, 5, 6]))
    found = written(tmp_path, "{file: m.npz}")
    assert found.persons is not None
    assert found.persons.tolist() == [5, 5, 6]
    assert found.persons.dtype == np.int64


@pytest.mark.parametrize("person", [[1, 2], [0.5, 1.0, 2.0], [[1], [2], [3]]], ids=["too few", "fractions", "a matrix"])
def test_persons_that_cannot_be_are_refused(person: list[object], tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.zeros((3, 2), dtype=np.float32), y=np.arange(3), person=np.array(person))
    with pytest.raises(InputError, match="person"):
        written(tmp_path, "{file: m.npz}")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{file: m.csv, label: kind, columns: [a, who], person: who}", "person 'who' is among the columns"),
        ("{file: m.csv, label: kind, columns: [a, b], person: nobody}", "no column 'nobody'"),
        ("{file: m.csv, label: kind, columns: [a, b], person: kind}", "both the label and the person"),
        ("{file: m.csv, label: kind, columns: [b, who], person: a}", "holds double"),
    ],
)
def test_a_person_column_that_cannot_be_is_refused(entry: str, words: str, tmp_path: Path) -> None:
    table(tmp_path, ["1", "2", "3"])
    with pytest.raises(InputError, match=words):
        written(tmp_path, entry)


def test_a_missing_person_is_refused(tmp_path: Path) -> None:
    table(tmp_path, ["ann", "", "bob"])
    with pytest.raises(InputError, match="missing"):
        written(tmp_path, "{file: m.csv, label: kind, person: who}")


def test_the_digest_hangs_on_persons_where_they_are_told() -> None:
    x, y = np.zeros((3, 2), dtype=np.float32), np.arange(3)
    told = [content_digest(Records(x, y, np.array(p))) for p in ([1, 1, 2], [1, 2, 2], [0, 0, 0])]
    assert len({content_digest(Records(x, y)), *told}) == 4


def test_record_risk_is_not_averaged_away_by_records_that_vary_more() -> None:
    """90 % vary widely and leak nothing, 10 % hardly vary and differ by four of their own deviations."""
    rng, k, n = np.random.default_rng(3), 32, 1000
    inside = np.empty((k, n), dtype=bool)
    inside[::2] = rng.random((k // 2, n)) < 0.5
    inside[1::2] = ~inside[::2]
    spread, effect = np.where(np.arange(n) < 100, 0.5, 5.0), np.where(np.arange(n) < 100, 2.0, 0.0)
    signals = rng.normal(size=(k, n)) * spread + inside * effect
    seen = Separation(signals, inside, np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64))
    truth = 2 * stats.norm.cdf(2.0) - 1  # d = 4
    found = RecordRisk(quantile=0.95).measure(seen, 0.05)
    assert found.low <= truth <= found.high
    assert found.low > 0.5
