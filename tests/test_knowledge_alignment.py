"""The decoder from a model's answer back to the record."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge

from midguard.attacks._shares import read
from midguard.attacks.inversion import _decoders
from midguard.attacks.inversion._readings import features as _features
from midguard.attacks.inversion._readings import readings
from midguard.attacks.inversion.knowledge_alignment import KnowledgeAlignment
from midguard.engine.attack import ANSWERS, RecordInversion
from midguard.engine.errors import AttackError
from midguard.engine.observation import Goal
from midguard.engine.target import Access, Exposure, Noise, NoiseKind, Records, Release, Target

DATA = Path(__file__).parents[2] / "shared" / "data"

LOGITS = Release(Exposure.LOGITS)
WHOLE = Release(Exposure.PROBABILITIES)
TOP = Release(Exposure.PROBABILITIES, top=3)
ROUNDED = Release(Exposure.PROBABILITIES, decimals=2)
LABEL = Release(Exposure.LABEL)

#: A network of a few weights and epochs, where it is not the network that is looked at.
SMALL = KnowledgeAlignment(hidden=(16,), epochs=3)


def records(count: int, seed: int, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = (3,)) -> Records:
    rng = np.random.default_rng(seed)
    return Records(rng.uniform(low, high, (count, *shape)).astype(np.float32), rng.integers(0, 4, count))


def target_of(logits: object, release: Release, owned: Records | None, **changes: object) -> Target:
    for array in (owned.x, owned.y) if owned else ():
        array.setflags(write=False)
    shape = owned.x.shape[1:] if owned else (3,)
    made = Target(release, Access.RELEASE, shape, 4, (0.0, 1.0), owned, logits, lambda: None)
    return dataclasses.replace(made, **changes)


def linear(x: np.ndarray) -> np.ndarray:
    """A model that hides nothing: its four logits determine the three values of a record."""
    weights = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [0, 0, 0]])
    return np.asarray((x.reshape(len(x), -1)[:, :3] - 0.5) @ weights.T, dtype=np.float64)


def reconstruct(attack: KnowledgeAlignment, target: Target, x: np.ndarray, seed: int = 0) -> np.ndarray:
    answers = target.query(x)
    answers.setflags(write=False)
    return attack.reconstruct_records(target, answers[None], seed, lambda _: None)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(((found.astype(np.float64) - truth) ** 2).mean())


# --- declarations and bad input --------------------------------------------------------------------------------------


def test_declares_what_it_needs() -> None:
    attack = KnowledgeAlignment()
    assert isinstance(attack, RecordInversion)
    assert attack.threat.exposures == ANSWERS
    assert (attack.threat.goal, attack.threat.access) == (Goal.RECORD, Access.RELEASE)
    assert attack.threat.obstacle(Access.RELEASE, Exposure.LABEL, auxiliary=False)
    assert not attack.threat.obstacle(Access.RELEASE, Exposure.LABEL, auxiliary=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoder": "gan"},
        {"hidden": (8, 0)},
        {"epochs": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"validation": 0.0},
        {"validation": 0.6},
        {"repeats": 0},
    ],
    ids=str,
)
def test_refuses_parameters_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"expected.*{next(iter(wrong))}"):
        KnowledgeAlignment(**wrong)


@pytest.mark.parametrize("owned", [None, records(9, 0)], ids=["none", "nine"])
def test_stops_without_records_to_learn_from(owned: Records | None) -> None:
    target = target_of(linear, WHOLE, owned)
    with pytest.raises(AttackError, match="at least 10 auxiliary records"):
        SMALL.reconstruct_records(target, np.full((1, 2, 4), 0.25), 0, lambda _: None)


@pytest.mark.parametrize("release", [LOGITS, WHOLE, TOP, LABEL], ids=str)
def test_stops_where_the_model_has_no_answer_on_them(release: Release) -> None:
    target = target_of(lambda x: np.where(x[:, :1] > 0.9, np.nan, linear(x)), release, records(100, 0))
    with pytest.raises(AttackError, match=r"not finite on \d+ of 100 auxiliary"):
        SMALL.reconstruct_records(target, np.full((1, 2, 4), 0.25), 0, lambda _: None)


def test_stops_where_a_convolution_has_no_image() -> None:
    attack = dataclasses.replace(SMALL, decoder="conv")
    with pytest.raises(AttackError, match=r"conv needs images .* \(3,\)"):
        reconstruct(attack, target_of(linear, WHOLE, records(40, 0)), records(2, 1).x)


@pytest.mark.parametrize("release", [LOGITS, WHOLE, TOP, ROUNDED, LABEL], ids=str)
def test_an_answer_that_is_not_finite_is_reconstructed_as_nan(release: Release) -> None:
    target = target_of(linear, release, records(40, 0))
    answers = target.query(records(3, 1).x)
    answers[1, 2] = np.nan
    found = SMALL.reconstruct_records(target, answers[None], 0, lambda _: None)
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, False])
    nothing = SMALL.reconstruct_records(target, np.full((1, 2, 4), np.nan), 0, lambda _: None)
    assert np.isnan(nothing).all()


# --- conduct ---------------------------------------------------------------------------------------------------------


def test_costs_one_query_for_each_record_of_its_own() -> None:
    target = target_of(linear, WHOLE, records(40, 0))
    SMALL.reconstruct_records(target, np.full((1, 5, 4), 0.25), 0, lambda _: None)
    assert target.queries == dataclasses.replace(SMALL, repeats=1).queries(5, 40) == 40


def test_the_same_seed_gives_the_same_records_and_leaves_global_randomness_alone() -> None:
    target, x = target_of(linear, WHOLE, records(60, 0)), records(5, 1).x
    attack = dataclasses.replace(SMALL, hidden=(64,), epochs=40)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = reconstruct(attack, target, x, seed=3)
    torch.rand(5, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(first, reconstruct(attack, target, x, seed=3))
    assert torch.equal(torch_before, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])


def test_the_seed_draws_the_network() -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in _decoders.mlp(4, (8,), 3, seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_progress_only_moves_forward_and_arrives() -> None:
    target, done = target_of(linear, WHOLE, records(40, 0)), list[float]()
    SMALL.reconstruct_records(target, np.full((1, 2, 4), 0.25), 0, done.append)
    assert len(done) > 3
    assert (np.diff(done) >= 0).all()
    assert done[-1] == 1.0


def test_stays_within_the_bounds_of_the_records() -> None:
    owned = records(200, 0, low=-2.0, high=3.0)
    target = target_of(lambda x: linear((x + 2) / 5), LOGITS, owned, bounds=(-2.0, 3.0))
    far = np.array([[90.0, -90, 90, 0], [-90, 90, 90, 0], [1, 1, 1, 0]])
    found = SMALL.reconstruct_records(target, far[None], 0, lambda _: None)
    assert found.dtype == np.float32
    assert found.min() >= -2 - 1e-6
    assert found.max() <= 3 + 1e-6


# --- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [LOGITS, WHOLE], ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-10.0, 30.0)], ids=str)
def test_inverts_a_model_that_hides_nothing(release: Release, bounds: tuple[float, float]) -> None:
    low, high = bounds
    owned, victims = records(400, 0, low, high), records(100, 1, low, high)
    target = target_of(lambda x: linear((x - low) / (high - low)), release, owned, bounds=bounds)
    guess = error(np.broadcast_to(owned.x.mean(axis=0), victims.x.shape), victims.x)
    assert error(reconstruct(SMALL, target, victims.x), victims.x) < 0.01 * guess


def test_the_less_a_release_shows_the_further_the_reconstruction() -> None:
    owned, victims = records(600, 0), records(300, 1)
    errors = [
        error(reconstruct(SMALL, target_of(linear, release, owned), victims.x), victims.x)
        for release in (WHOLE, Release(Exposure.PROBABILITIES, decimals=1), LABEL)
    ]
    assert errors[0] < 0.5 * errors[1] < 0.5 * 0.8 * errors[2]


def test_a_hidden_class_gets_what_is_left() -> None:
    # Of three classes two are shown: the third is what is left, so truncation hides nothing at all.
    def three(x: np.ndarray) -> np.ndarray:
        return linear(x)[:, [0, 1, 3]]

    owned, victims = records(400, 0), records(200, 1)
    two = Release(Exposure.PROBABILITIES, top=2)
    whole, truncated = (
        error(reconstruct(SMALL, target_of(three, release, owned, classes=3), victims.x), victims.x)
        for release in (WHOLE, two)
    )
    assert truncated < 1.1 * whole


def test_reads_everything_that_an_answer_tells() -> None:
    x, owned = records(20, 0).x, records(20, 1)
    for release, besides in (
        (LOGITS, lambda answers: answers.mean(axis=1, keepdims=True)),
        (TOP, lambda answers: np.where(answers == 0, 0.0, 1.0)),
    ):
        target = target_of(linear, release, owned)
        answers = target.query(x)
        np.testing.assert_allclose(_features(target, answers, 1.0)[:, 4:], besides(answers), atol=1e-15)
        shown = answers == answers.max(axis=1, keepdims=True)
        expected = np.log(np.exp(linear(x)) / np.exp(linear(x)).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(_features(target, answers, 1.0)[:, :4][shown], expected[shown], rtol=1e-9)
    one_hot = target_of(linear, LABEL, owned).query(x)
    np.testing.assert_array_equal(_features(target_of(linear, LABEL, owned), one_hot, 1.0), one_hot)


def test_from_labels_alone_it_is_the_mean_record_of_the_predicted_class() -> None:
    owned, victims = records(600, 0), records(300, 1)
    said, own = linear(victims.x).argmax(axis=1), linear(owned.x).argmax(axis=1)
    means = np.stack([owned.x[own == k].mean(axis=0) for k in range(4)])
    found = reconstruct(SMALL, target_of(linear, LABEL, owned), victims.x)
    np.testing.assert_allclose(found, means[said], atol=0.02)


def test_a_model_that_tells_nothing_gives_the_mean_record() -> None:
    # The error of the mean guess on 1000 uniform records is known to 1.5 %; any use of noise would only add to it.
    owned, victims = records(600, 0), records(1000, 1)
    for release in (LOGITS, WHOLE, TOP, ROUNDED, LABEL):
        target = target_of(lambda x: np.zeros((len(x), 4)), release, owned)
        found = reconstruct(SMALL, target, victims.x)
        np.testing.assert_allclose(found, np.broadcast_to(owned.x.mean(axis=0), found.shape), atol=0.03)
        assert error(found, victims.x) == pytest.approx(1 / 12, rel=0.05)


def test_a_class_never_seen_is_guessed_by_the_overall_mean() -> None:
    owned = records(50, 0)
    lesson = lesson_of(np.eye(4)[np.arange(50) % 2], owned.x)
    decoder = _decoders.class_means(lesson)
    found = decoder.decode(_decoders.Answers(np.zeros((2, 4)), np.array([0, 3])))
    np.testing.assert_allclose(found[0], owned.x[::2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[1], owned.x.mean(axis=0), rtol=1e-6)


def test_convolution_reconstructs_images_of_any_size() -> None:
    owned, victims = records(300, 0, shape=(2, 7, 5)), records(4, 1, shape=(2, 7, 5))
    attack = KnowledgeAlignment(decoder="conv", epochs=2)
    assert reconstruct(attack, target_of(linear, WHOLE, owned), victims.x).shape == (4, 2, 7, 5)
    net = _decoders.conv(4, (2, 7, 5), seed=0)
    assert net(torch.zeros(3, 4)).shape == (3, 70)


# --- the decoders, against a second implementation -------------------------------------------------------------------


def lesson_of(features: np.ndarray, x: np.ndarray, held: int = 10) -> _decoders.Lesson:
    answers = _decoders.Answers(np.asarray(features, dtype=np.float64), features.argmax(axis=1))
    return _decoders.Lesson(answers, x.astype(np.float64).reshape(len(x), -1), held)


def test_leaving_out_one_record_in_closed_form_is_leaving_it_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 2)), rng.uniform(0.3, 0.7, (25, 3))
    mean = y.mean(axis=0)
    fits = _decoders._ridges(x, y - mean, mean, gamma=0.4)
    for fit, ridge in zip(fits, _decoders._RIDGES, strict=True):
        model = KernelRidge(alpha=ridge, kernel="rbf", gamma=0.4)
        np.testing.assert_allclose(fit.weights, model.fit(x, y - mean).dual_coef_, rtol=1e-6, atol=1e-9)
        for i in range(25):
            others = np.arange(25) != i
            left_out = model.fit(x[others], y[others] - mean).predict(x[i : i + 1])[0] + mean
            np.testing.assert_allclose(fit.left_out[i], left_out.clip(0, 1), rtol=1e-6)


def test_the_class_means_error_leaves_the_record_out() -> None:
    rng = np.random.default_rng(0)
    classes = np.array([0] * 6 + [1] * 5 + [2])
    x = rng.uniform(size=(12, 2))
    guesses = [x[(classes == k) & (np.arange(12) != i)] for i, k in enumerate(classes)]
    expected = [((g.mean(axis=0) if len(g) else x.mean(axis=0)) - own) ** 2 for g, own in zip(guesses, x, strict=True)]
    found = _decoders.class_means(lesson_of(np.eye(3)[classes], x, held=12))
    assert found.error == pytest.approx(np.mean(expected))


def test_the_network_keeps_its_best_epoch_and_stops() -> None:
    # A learning rate at which it only gets worse after a while: the last epoch is not the best.
    rng = np.random.default_rng(0)
    lesson = lesson_of(rng.normal(size=(60, 4)), rng.uniform(size=(60, 3)), held=20)
    net, done = _decoders.mlp(4, (64,), 3, seed=0), list[float]()
    decoder = _decoders.network(lesson, net, _decoders.Training(300, 16, 0.02, 0.0), 0, done.append)
    held = _decoders.Answers(lesson.answers.features[:20], lesson.answers.predicted[:20])
    assert ((decoder.decode(held) - lesson.records[:20]) ** 2).mean() == pytest.approx(decoder.error)
    assert len(done) < 300


def test_the_network_never_learns_from_the_records_held_out() -> None:
    # Noise for records: learnt by heart their error goes to 0, unseen it stays at the variance of 1/12 or above (its
    # estimate from 20 x 30 uniform values has a standard deviation of 4 %).
    rng = np.random.default_rng(0)
    lesson = lesson_of(rng.normal(size=(60, 8)), rng.uniform(size=(60, 30)), held=20)
    net = _decoders.mlp(8, (128,), 30, seed=0)
    decoder = _decoders.network(lesson, net, _decoders.Training(300, 16, 0.01, 0.0), 0, lambda _: None)
    assert decoder.error > 0.85 / 12


def test_the_kernel_ridge_stays_between_black_and_white() -> None:
    # Gaussian kernels overshoot at a step.
    x = np.linspace(-1, 1, 80)[:, None]
    found = _decoders.kernel_ridge(lesson_of(x, (x > 0).astype(float))).decode(_decoders.Answers(x, np.zeros(80, int)))
    assert found.min() == 0.0
    assert found.max() == 1.0


def test_a_network_that_came_to_nothing_is_never_chosen() -> None:
    owned, victims = records(200, 0), records(50, 1)
    target = target_of(linear, LOGITS, owned)
    found = reconstruct(dataclasses.replace(SMALL, lr=1e30), target, victims.x)
    assert error(found, victims.x) < 0.01


def test_the_network_is_chosen_where_it_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without records enough for the kernel ridge, the network is what is left to do better than class means.
    monkeypatch.setattr(_decoders, "_RIDGES", (1e9,))
    owned, victims = records(600, 0), records(200, 1)
    target = target_of(linear, LOGITS, owned)
    by_class = error(reconstruct(dataclasses.replace(SMALL, lr=1e-9), target, victims.x), victims.x)
    attack = KnowledgeAlignment(hidden=(64,), epochs=40, batch=32, lr=3e-3)
    assert error(reconstruct(attack, target, victims.x), victims.x) < 0.2 * by_class


# --- real models -----------------------------------------------------------------------------------------------------


def classifier(x: np.ndarray, y: np.ndarray, net: torch.nn.Module, epochs: int, weight_decay: float = 0.0) -> object:
    """Train a classifier and return its logits as a function."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    order = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(net.parameters(), 2e-3, weight_decay=weight_decay)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(64):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
            adam.step()

    def logits(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.tensor(seen)).double().numpy()

    return logits


@pytest.fixture(scope="module")
def digits() -> tuple[Target, Records]:
    """A classifier of scikit-learn's digits that releases all probabilities, and the records it was trained on."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    x, y = (bunch.data / 16).astype(np.float32).reshape(-1, 1, 8, 8)[order], bunch.target.astype(np.int64)[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    logits = classifier(x[:600], y[:600], net, epochs=40)
    owned = Records(x[1200:], y[1200:])
    return target_of(logits, WHOLE, owned, classes=10), Records(x[:600], y[:600])


@pytest.mark.parametrize(("release", "least", "most"), [(WHOLE, 0.2, 0.6), (LABEL, 0.9, 1.1)], ids=str)
def test_digits_come_back_from_probabilities_and_not_from_labels(
    digits: tuple[Target, Records], release: Release, least: float, most: float
) -> None:
    target, victims = dataclasses.replace(digits[0], release=release), digits[1]
    owned = target.auxiliary
    means = np.stack([owned.x[owned.y == k].mean(axis=0) for k in range(10)])
    found = reconstruct(KnowledgeAlignment(), target, victims.x)
    assert least < error(found, victims.x) / error(means[victims.y], victims.x) < most


@pytest.mark.shared_data
@pytest.mark.skipif(not (DATA / "mnist.npz").exists(), reason="needs ../shared/data/mnist.npz")
def test_mnist_the_less_is_shown_the_further_down_to_the_class_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoders, "_KERNEL_RECORDS", 700)
    with np.load(DATA / "mnist.npz") as data:
        x, y = data["x"].astype(np.float32) / 255, data["y"].astype(np.int64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 5, stride=2)),
            *(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
        )
    logits = classifier(x[:8000], y[:8000], net, epochs=3)
    owned, victims, labels = Records(x[60000:63000], y[60000:63000]), x[:1000], y[:1000]
    attack = KnowledgeAlignment(epochs=6)
    found = {
        release: error(reconstruct(attack, target_of(logits, release, owned, classes=10), victims), victims)
        for release in (WHOLE, TOP, LABEL)
    }
    means = np.stack([owned.x[owned.y == k].mean(axis=0) for k in range(10)])
    assert found[WHOLE] < 0.9 * found[TOP]
    assert found[TOP] < 0.95 * found[LABEL]
    assert found[LABEL] == pytest.approx(error(means[labels], victims), rel=0.03)


# --- noise -----------------------------------------------------------------------------------------------------------


def noisy(release: Release, scale: float, per: str = "query") -> Release:
    return dataclasses.replace(release, noise=Noise(NoiseKind.GAUSSIAN, scale, per))


def attacked(attack: KnowledgeAlignment, target: Target, x: np.ndarray) -> float:
    """The error on records that were asked about as often as the attack wants, where that changes anything."""
    looks = attack.repeats if target.noisy else 1
    outputs = np.stack([target.query(x) for _ in range(looks)])
    return error(attack.reconstruct_records(target, outputs, 0, lambda _: None), x)


@pytest.mark.parametrize("release", [LOGITS, WHOLE], ids=str)
def test_averaging_undoes_noise_and_never_more_than_there_is(release: Release) -> None:
    owned, x = records(400, 0), records(200, 1).x
    clean = attacked(SMALL, target_of(linear, release, owned), x)
    scale = 1.0 if release is LOGITS else 0.03
    noised = noisy(release, scale)
    once, often = (
        attacked(dataclasses.replace(SMALL, repeats=r), target_of(linear, noised, owned), x) for r in (1, 32)
    )
    assert clean < often < once
    assert (often - clean) / (once - clean) < 0.5  # 32 looks leave a deviation of a sixth


def test_noise_that_belongs_to_the_record_is_not_averaged_away() -> None:
    owned, x = records(400, 0), records(200, 1).x
    once, often = (
        attacked(dataclasses.replace(SMALL, repeats=r), target_of(linear, noisy(LOGITS, 1.0, "record"), owned), x)
        for r in (1, 32)
    )
    assert often == once


def test_noise_that_leaves_zeros_hides_no_more_than_noise_that_does_not() -> None:
    """A sure model: what tells of the record is around .01, and gaussian noise leaves a third of it as exact zeros."""

    def sure(x: np.ndarray) -> np.ndarray:
        return linear(x) + np.array([0.0, 0.0, 0.0, 6.0])

    owned, x = records(600, 0), records(300, 1).x
    gaussian = dataclasses.replace(WHOLE, noise=Noise(NoiseKind.GAUSSIAN, 0.006))
    uniform = dataclasses.replace(WHOLE, noise=Noise(NoiseKind.UNIFORM, 0.006 * 12**0.5))  # of the same deviation
    assert (target_of(sure, gaussian, owned).query(x) == 0).mean() > 0.1
    found = [attacked(SMALL, target_of(sure, release, owned), x) for release in (gaussian, uniform)]
    assert found[0] < 1.1 * found[1]
    assert found[0] < 0.8 * error(np.broadcast_to(owned.x.mean(axis=0), x.shape), x)


@pytest.mark.parametrize("release", [WHOLE, TOP, dataclasses.replace(ROUNDED, decimals=3)], ids=str)
def test_a_probability_that_noise_drowned_is_read_as_half_the_noise(release: Release) -> None:
    behind = target_of(linear, noisy(release, 0.02), records(40, 0))
    shown = np.array([[0.0, 0.001, 0.3, 0.699]])
    for looks in (1, 16):
        log_p = read(behind, shown, looks=looks).log_p[0]
        least = 0.01 / looks**0.5
        assert log_p[0] == pytest.approx(np.log(least), abs=0.03)  # the shares are made to sum to 1 again
        assert log_p[1] == pytest.approx(np.log(max(least, 0.001)), abs=0.03)
        assert log_p[2] == pytest.approx(np.log(0.3), abs=0.03)


def test_however_large_the_noise_a_larger_share_is_read_as_larger() -> None:
    behind = target_of(linear, noisy(WHOLE, 1000.0), records(40, 0))
    log_p = read(behind, np.array([[0.05, 0.15, 0.3, 0.5]])).log_p[0]
    np.testing.assert_allclose(log_p, np.log([0.05, 0.15, 0.3, 0.5]))


def test_repeats_are_paid_for_where_they_are_made() -> None:
    attack = dataclasses.replace(SMALL, repeats=4)
    target = target_of(linear, noisy(LOGITS, 0.5), records(40, 0))
    attack.reconstruct_records(target, np.stack([linear(records(5, 1).x)] * 4), 0, lambda _: None)
    assert target.queries == attack.queries(5, 40) == 160


def test_there_is_one_reading_of_one_answer_and_three_of_many() -> None:
    owned, victims = linear(records(40, 0).x)[None], linear(records(5, 1).x)[None]
    target = target_of(linear, LOGITS, records(40, 0))
    assert [r.name for r in readings(target, owned, victims)] == ["mean"]
    many = [np.repeat(part, 4, axis=0) for part in (owned, victims)]
    assert [r.name for r in readings(target, many[0], many[1])] == ["mean", "mean of logarithms", "de-noised"]


def test_the_denoiser_foretells_what_two_halves_share() -> None:
    # Two latent values behind four noisy logits: what the halves share is the model's answer.
    rng, clean = np.random.default_rng(0), linear(records(400, 0).x)
    noised = clean + rng.normal(0, 3.0, (8, *clean.shape))
    target = target_of(linear, LOGITS, records(400, 0))
    plain, _, denoised = readings(target, noised, noised)

    def told(answers: np.ndarray) -> float:
        """How well a linear map finds the clean logits in what was read."""
        design = np.c_[answers, np.ones(len(answers))]
        train, test = slice(0, 300), slice(300, 400)
        weights = np.linalg.lstsq(design[train], clean[train], rcond=None)[0]
        return error(design[test] @ weights, clean[test])

    assert told(denoised.owned.features) < 1.2 * told(plain.owned.features)


@pytest.mark.parametrize(
    "release",
    [WHOLE, TOP, ROUNDED, noisy(LOGITS, 0.5), noisy(WHOLE, 0.02), dataclasses.replace(noisy(TOP, 0.02), decimals=2)],
    ids=str,
)
def test_no_release_is_worse_for_the_adversary_than_the_label_alone(release: Release) -> None:
    owned, x = records(400, 0), records(300, 1).x
    floor = attacked(SMALL, target_of(linear, LABEL, owned), x)
    assert attacked(dataclasses.replace(SMALL, repeats=8), target_of(linear, release, owned), x) < 0.9 * floor


def test_noise_without_an_answer_in_it_tells_nothing() -> None:
    owned, x = records(400, 0), records(300, 1).x
    nothing = attacked(
        dataclasses.replace(SMALL, repeats=4), target_of(lambda x: np.zeros((len(x), 4)), noisy(LOGITS, 1.0), owned), x
    )
    assert nothing == pytest.approx(error(np.broadcast_to(owned.x.mean(axis=0), x.shape), x), rel=0.03)


def test_both_decoders_are_tried_on_images_and_one_on_other_records() -> None:
    def count(shape: tuple[int, ...]) -> int:
        answers = _decoders.Answers(np.zeros((20, 4)), np.zeros(20, dtype=np.int64))
        lesson = _decoders.Lesson(answers, np.zeros((20, int(np.prod(shape)))), 2)
        return len(dataclasses.replace(SMALL, decoder="both")._networks(lesson, shape, 0))

    assert (count((1, 8, 8)), count((3,))) == (2, 1)
