"""The attacks on membership that read the model's own answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import log_loss, roc_auc_score

from midguard.engine import registry
from midguard.engine.attack import ANSWERS, SCORES, MembershipAttack
from midguard.engine.observation import Goal
from midguard.engine.target import Access, Exposure, Records, Release, Target

NAMES = ("loss", "confidence", "entropy", "modified_entropy", "label")
GRADED = NAMES[:-1]

LOGITS = Release(Exposure.LOGITS)
WHOLE = Release(Exposure.PROBABILITIES)
LABEL = Release(Exposure.LABEL)
REDUCED = (
    Release(Exposure.PROBABILITIES, top=1),
    Release(Exposure.PROBABILITIES, top=3),
    Release(Exposure.PROBABILITIES, decimals=0),
    Release(Exposure.PROBABILITIES, decimals=2),
    Release(Exposure.PROBABILITIES, decimals=15),
    Release(Exposure.PROBABILITIES, top=1, decimals=1),
    Release(Exposure.PROBABILITIES, top=3, decimals=2),
)


def attack(name: str) -> MembershipAttack:
    made = registry.load("attacks", f"membership.{name}")()
    assert isinstance(made, MembershipAttack)
    return made


def target_of(logits: np.ndarray, release: Release, access: Access = Access.RELEASE) -> Target:
    """A model that looks each record up: record i is the number i."""
    table = np.array(logits, dtype=np.float64)
    table.setflags(write=False)

    def answer(x: np.ndarray) -> np.ndarray:
        return table[x[:, 0].astype(int)]

    def module() -> None:
        raise AssertionError("a score attack must not open the model")

    return Target(release, access, (1,), table.shape[1], (0.0, 1.0), None, answer, module)


def candidates_of(labels: np.ndarray) -> Records:
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    y = np.asarray(labels, dtype=np.int64)
    x.setflags(write=False)
    y.setflags(write=False)
    return Records(x, y)


def scores(name: str, logits: np.ndarray, labels: np.ndarray, release: Release = LOGITS) -> np.ndarray:
    done: list[float] = []
    found = attack(name).score(target_of(logits, release), candidates_of(labels), 0, done.append)
    assert done[-1] == 1.0
    assert found.shape == (len(labels),)
    assert found.dtype == np.float64
    return found


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of 200 records, from unsure to sure, right and wrong."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(200, 6)) * rng.uniform(0.1, 8, size=(200, 1)), rng.integers(0, 6, 200)


# --- declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_needs_and_costs_one_query_a_candidate(name: str) -> None:
    made = attack(name)
    assert made.threat.access is Access.RELEASE
    assert made.threat.goal is Goal.MEMBERSHIP
    assert made.threat.exposures == (ANSWERS if name == "label" else SCORES)
    assert ("its recorded label" in made.threat.knowledge) == (name not in {"confidence", "entropy"})
    assert "arXiv" in made.source
    target, candidates = target_of(np.zeros((7, 3)), LOGITS), candidates_of(np.zeros(7))
    made.score(target, candidates, 0, lambda _: None)
    assert target.queries == made.queries(7, 0) == 7


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [LOGITS, WHOLE])
@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        # Two classes with probabilities 1/4 and 3/4; the recorded label is first 0, then 1.
        ("loss", [np.log(0.25), np.log(0.75)]),
        ("confidence", [np.log(0.75), np.log(0.75)]),
        ("entropy", [0.25 * np.log(0.25) + 0.75 * np.log(0.75)] * 2),
        ("modified_entropy", [1.5 * np.log(0.25), 0.5 * np.log(0.75)]),
        ("label", [0.0, 1.0]),
    ],
)
def test_two_classes_by_hand(name: str, by_hand: list[float], release: Release) -> None:
    logits = np.array([[0.0, np.log(3)], [0.0, np.log(3)]])
    np.testing.assert_allclose(scores(name, logits, np.array([0, 1]), release), by_hand, rtol=1e-14)


def test_loss_is_the_cross_entropy_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    p = softmax(logits, axis=1)
    theirs = [-log_loss([y], [row], labels=range(6)) for row, y in zip(p, labels, strict=True)]
    for release in (LOGITS, WHOLE):
        np.testing.assert_allclose(scores("loss", logits, labels, release), theirs, rtol=1e-9)


def test_entropy_is_that_of_scipy(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    theirs = -stats.entropy(softmax(logits, axis=1), axis=1)
    for release in (LOGITS, WHOLE):
        np.testing.assert_allclose(scores("entropy", logits, labels, release), theirs, rtol=1e-9)


def test_modified_entropy_is_the_papers_sum_written_out(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    theirs = []
    for row, y in zip(softmax(logits, axis=1), labels, strict=True):
        others = sum(p * np.log(1 - p) for i, p in enumerate(row) if i != y)
        theirs.append((1 - row[y]) * np.log(row[y]) + others)
    np.testing.assert_allclose(scores("modified_entropy", logits, labels), theirs, rtol=1e-6)


def test_modified_entropy_grows_with_the_share_of_the_recorded_label_where_entropy_does_not() -> None:
    # Song & Mittal 2021: monotonically decreasing in p_y, increasing in the others.
    share = np.linspace(0.02, 0.98, 49)
    logits = np.log(np.stack([share, 1 - share], axis=1))
    right = np.zeros(49, dtype=int)
    assert (np.diff(scores("modified_entropy", logits, right)) > 0).all()
    assert (np.diff(scores("loss", logits, right)) > 0).all()
    assert not (np.diff(scores("entropy", logits, right)) > 0).all()


def test_a_holder_of_the_weights_sees_past_the_release() -> None:
    logits, labels = np.array([[2.0, 1.0, -3.0]]), np.array([2])
    target = target_of(logits, LABEL, Access.WEIGHTS)
    found = attack("loss").score(target, candidates_of(labels), 0, lambda _: None)
    np.testing.assert_allclose(found, np.log(softmax(logits, axis=1))[:, 2])


# --- the ends of the scale -------------------------------------------------------------------------------------------


def test_extreme_logits_give_the_exact_limits() -> None:
    logits, labels = np.array([[1e4, -1e4], [1e4, -1e4], [-1e4, 1e4]]), np.array([0, 1, 1])
    np.testing.assert_allclose(scores("loss", logits, labels), [0, -2e4, 0], atol=1e-300)
    np.testing.assert_allclose(scores("confidence", logits, labels), 0, atol=1e-300)
    np.testing.assert_allclose(scores("entropy", logits, labels), 0, atol=1e-300)
    np.testing.assert_allclose(scores("modified_entropy", logits, labels), [0, -4e4, 0], atol=1e-300)


@pytest.mark.parametrize("release", [LOGITS, WHOLE])
def test_certain_answers_are_told_apart_where_the_probability_rounds_to_one(release: Release) -> None:
    logits, labels = np.array([[40.0, 0.0], [50.0, 0.0], [60.0, 0.0]]), np.zeros(3, dtype=int)
    assert (softmax(logits, axis=1)[:, 0] == 1.0).all()
    small = np.exp([-40.0, -50.0, -60.0])
    np.testing.assert_allclose(scores("loss", logits, labels, release), -small, rtol=1e-9)
    np.testing.assert_allclose(scores("confidence", logits, labels, release), -small, rtol=1e-9)
    # -H = -small - small * |log small| to first order; Mentr = 2 small^2 to first order
    np.testing.assert_allclose(scores("entropy", logits, labels, release), small * (np.log(small) - 1), rtol=1e-9)
    np.testing.assert_allclose(scores("modified_entropy", logits, labels, release), -2 * small**2, rtol=1e-9)


@pytest.mark.parametrize("release", [LOGITS, WHOLE, *REDUCED], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_release_gives_a_finite_score(name: str, release: Release) -> None:
    rng = np.random.default_rng(2)
    scale = np.repeat([0.0, 1e-9, 1.0, 30.0, 1e3, 1e4], 50)[:, None]
    found = scores(name, rng.normal(size=(300, 7)) * scale, rng.integers(0, 7, 300), release)
    assert np.isfinite(found).all()
    assert (found <= (1 if name == "label" else 0)).all()


# --- what a release hides --------------------------------------------------------------------------------------------

SHOWN = np.log([[0.6, 0.3, 0.08, 0.02]] * 4)


def test_truncated_classes_share_what_is_left() -> None:
    found = scores("loss", SHOWN, np.arange(4), Release(Exposure.PROBABILITIES, top=2))
    np.testing.assert_allclose(found, np.log([0.6, 0.3, 0.05, 0.05]), rtol=1e-12)
    spread = scores("entropy", SHOWN, np.arange(4), Release(Exposure.PROBABILITIES, top=2))
    np.testing.assert_allclose(spread, -stats.entropy([0.6, 0.3, 0.05, 0.05]), rtol=1e-12)


def test_a_class_rounded_away_counts_half_a_unit_in_the_last_place() -> None:
    found = scores("loss", SHOWN, np.arange(4), Release(Exposure.PROBABILITIES, decimals=1))
    np.testing.assert_allclose(found, np.log([0.6, 0.3, 0.1, 0.05]), rtol=1e-12)
    # 0 log 0 = 0: rounding away adds nothing to the entropy
    spread = scores("entropy", SHOWN, np.arange(4), Release(Exposure.PROBABILITIES, decimals=1))
    np.testing.assert_allclose(spread, sum(p * np.log(p) for p in (0.6, 0.3, 0.1)), rtol=1e-12)


def test_truncated_and_rounded_classes_share_half_a_unit_where_nothing_is_left() -> None:
    logits = np.log([[0.97, 0.02, 0.005, 0.005]] * 4)
    found = scores("loss", logits, np.arange(4), Release(Exposure.PROBABILITIES, top=1, decimals=1))
    np.testing.assert_allclose(found, np.log([1.0, 0.05 / 3, 0.05 / 3, 0.05 / 3]), rtol=1e-12)


def test_a_hidden_class_never_outranks_a_shown_one() -> None:
    # What is left of 1 is rounding error here, larger than the second probability.
    logits = np.array([[0.0, -60.0, -61.0]] * 3)
    found = scores("loss", logits, np.arange(3), Release(Exposure.PROBABILITIES, top=2))
    assert found[0] > found[1] >= found[2]
    np.testing.assert_allclose(found[1], -60, rtol=1e-12)


@pytest.mark.parametrize("release", REDUCED, ids=str)
def test_the_loss_keeps_the_order_of_the_classes(release: Release) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(40, 5)) * rng.uniform(0.1, 40, size=(40, 1))
    by_class = np.stack([scores("loss", logits, np.full(40, k), release) for k in range(5)], axis=1)
    order = logits.argsort(axis=1)
    assert (np.diff(np.take_along_axis(by_class, order, axis=1), axis=1) >= -1e-12).all()


@pytest.mark.parametrize("release", REDUCED, ids=str)
def test_a_reduced_release_still_tells_the_prediction(release: Release) -> None:
    # Whatever is hidden, the gap attack reads the same prediction as from the logits, unless it is rounded into a tie.
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(300, 4)) * 3, rng.integers(0, 4, 300)
    clear = np.diff(np.sort(release.apply(logits), axis=1)[:, -2:])[:, 0] > 0
    assert clear.any()
    found = scores("label", logits, labels, release)
    np.testing.assert_array_equal(found[clear], scores("label", logits, labels)[clear])


# --- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_a_rows_logits_changes_nothing(name: str, answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    shifted = logits + np.linspace(-50, 50, len(logits))[:, None]
    np.testing.assert_allclose(scores(name, shifted, labels), scores(name, logits, labels), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("release", [LOGITS, WHOLE, *REDUCED], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_candidates_does_not_matter(
    name: str, release: Release, answers: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = answers
    order = np.random.default_rng(5).permutation(len(labels))
    expected = scores(name, logits, labels, release)[order]
    np.testing.assert_array_equal(scores(name, logits[order], labels[order], release), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_the_classes_do_not_matter(name: str, answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    renamed = np.array([3, 0, 5, 1, 4, 2])
    moved = np.empty_like(logits)
    moved[:, renamed] = logits
    np.testing.assert_allclose(scores(name, moved, renamed[labels]), scores(name, logits, labels), rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 10])
@pytest.mark.parametrize("release", [LOGITS, WHOLE, Release(Exposure.PROBABILITIES, decimals=0)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_tells_no_classes_apart_gives_one_score(name: str, release: Release, classes: int) -> None:
    found = scores(name, np.full((30, classes), 2.5), np.arange(30) % classes, release)
    np.testing.assert_array_equal(found, found[0])


def test_no_rounding_error_tells_the_labels_of_equal_answers_apart() -> None:
    # A difference in the last bit would rank equal answers by their recorded label.
    for classes in range(2, 130):
        labels = np.arange(classes)
        assert len(np.unique(scores("modified_entropy", np.zeros((classes, classes)), labels))) == 1


def test_a_tie_for_the_first_place_is_shared() -> None:
    logits = np.array([[1.0, 1.0, 0.0]] * 3)
    np.testing.assert_array_equal(scores("label", logits, np.arange(3)), [0.5, 0.5, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "release"), [*((name, LOGITS) for name in NAMES), ("label", LABEL)], ids=str)
def test_a_row_without_a_finite_answer_stays_nan(name: str, release: Release, bad: float) -> None:
    logits = np.zeros((4, 3))
    logits[2, 1] = bad
    found = scores(name, logits, np.array([0, 0, 0, 0]), release)
    np.testing.assert_array_equal(np.isnan(found), [False, False, True, False])


@pytest.mark.parametrize("release", [WHOLE, *REDUCED], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nan_probabilities_stay_nan(name: str, release: Release) -> None:
    logits = np.zeros((3, 4))
    logits[1, 3] = np.nan
    found = scores(name, logits, np.array([0, 0, 0]), release)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


# --- a planted leak, and none ----------------------------------------------------------------------------------------

COUNT = 1000


def planted(leak: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are sure of the recorded label on members alone. Returns: logits, labels, members."""
    rng = np.random.default_rng(6)
    labels, members = rng.integers(0, 10, 2 * COUNT), np.arange(2 * COUNT) < COUNT
    logits = rng.normal(size=(2 * COUNT, 10))
    logits[members, labels[members]] += leak
    return logits, labels, members


@pytest.mark.parametrize("release", [LOGITS, WHOLE, Release(Exposure.PROBABILITIES, top=3, decimals=3)], ids=str)
@pytest.mark.parametrize("name", GRADED)
def test_finds_a_planted_leak(name: str, release: Release) -> None:
    logits, labels, members = planted(leak=9.0)
    assert roc_auc_score(members, scores(name, logits, labels, release)) > 0.9


@pytest.mark.parametrize("release", [LOGITS, LABEL], ids=str)
def test_the_gap_attack_finds_the_accuracy_gap(release: Release) -> None:
    logits, labels, members = planted(leak=9.0)
    found = scores("label", logits, labels, release)
    right = logits.argmax(axis=1) == labels
    assert found[members].mean() - found[~members].mean() == right[members].mean() - right[~members].mean()
    assert found[members].mean() - found[~members].mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_finds_nothing_where_there_is_nothing(name: str) -> None:
    # The AUC of two equal samples of 1000 has standard deviation sqrt(2001 / 12e6) = .0129 (less with ties); a band of
    # four of them is left with probability 6e-5.
    logits, labels, members = planted(leak=0.0)
    band = 4 * np.sqrt((2 * COUNT + 1) / (12 * COUNT**2))
    assert abs(roc_auc_score(members, scores(name, logits, labels)) - 0.5) < band


def classes_of_unlike_difficulty(auxiliary: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores where class 1 is much harder than class 0 and members are a little surer than others in each."""
    rng = np.random.default_rng(4)
    labels = np.arange(1200) % 2
    members = np.arange(1200) < 400
    sure = np.where(labels == 0, 6.0, 0.0) + 1.5 * members + rng.normal(size=1200)
    logits = np.zeros((1200, 3))
    logits[np.arange(1200), labels] = sure
    target = target_of(logits, LOGITS)
    pool, others = candidates_of(labels).take(np.arange(800)), candidates_of(labels).take(np.arange(800, 1200))
    target.auxiliary = others if auxiliary else None
    return attack("modified_entropy").score(target, pool, 0, lambda share: None), members[:800]


def test_modified_entropy_has_a_threshold_for_each_class() -> None:
    """With one threshold for all, the easy class looks like members; with one for each, the members do."""
    pooled, members = classes_of_unlike_difficulty(auxiliary=False)
    by_class, _ = classes_of_unlike_difficulty(auxiliary=True)
    assert roc_auc_score(members, by_class) > roc_auc_score(members, pooled) + 0.1


def test_modified_entropy_of_a_class_without_auxiliary_records_is_counted_from_the_middle_of_all() -> None:
    from midguard.attacks.membership.modified_entropy import middle_of_each_class, modified_entropy

    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(60, 3)), np.zeros(60, dtype=np.int64)
    target, records = target_of(logits, LOGITS), candidates_of(labels)
    entropy = modified_entropy(target, records)
    np.testing.assert_allclose(middle_of_each_class(target, records), np.full(3, np.median(entropy)))


def test_modified_entropy_does_not_lose_its_answer_to_auxiliary_records_without_one() -> None:
    logits = np.zeros((40, 3))
    logits[20:] = np.nan
    target = target_of(logits, LOGITS)
    target.auxiliary = candidates_of(np.zeros(40, dtype=np.int64)).take(np.arange(20, 40))
    pool = candidates_of(np.zeros(40, dtype=np.int64)).take(np.arange(20))
    assert np.isfinite(attack("modified_entropy").score(target, pool, 0, lambda share: None)).all()
