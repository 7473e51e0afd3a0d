"""The white-box inversions: what they must find, what they must not, and where they must stop."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy

from midguard.attacks.inversion._white_box import Place, Views, _grid, gradient_at, total_variation
from midguard.attacks.inversion.gradient import Gradient
from midguard.attacks.inversion.mi_face import MIFace, stopped
from midguard.engine.attack import ClassInversion
from midguard.engine.errors import AccessError, AttackError
from midguard.engine.judges import fit_evaluators, identity_gap, judge_classes, mean_squared_error, nearest_identity
from midguard.engine.target import Access, Exposure, Records, Release, Target

ORL = Path(__file__).parents[2] / "shared" / "data" / "orl_faces.npz"
ATTACKS = [Gradient(steps=40, restarts=2, transforms=5), MIFace(alpha=60, beta=10)]
QUICK = ATTACKS[0]


def target(
    module: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    access: Access = Access.WEIGHTS,
) -> Target:
    module.eval().requires_grad_(False)

    def logits(x: np.ndarray) -> np.ndarray:
        return module(torch.as_tensor(x)).double().numpy()

    return Target(Release(Exposure.PROBABILITIES), access, shape, classes, bounds, None, logits, lambda: module)


def linear(weights: np.ndarray, scale: float = 1.0) -> nn.Module:
    """A linear model whose rows are the given templates. Args: weights `(classes, *shape)`."""
    rows = torch.as_tensor(weights.reshape(len(weights), -1))
    layer = nn.Linear(rows.shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(scale * rows)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def templates(classes: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blocky black-and-white patterns, one for each class."""
    rng = np.random.default_rng(seed)
    if len(shape) != 3:
        return (rng.random((classes, *shape)) < 0.5).astype(np.float32)
    coarse = rng.random((classes, shape[0], shape[1] // 4, shape[2] // 4)) < 0.5
    return coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.float32)


def quiet(share: float) -> None:
    """Progress that nobody watches."""


# --- what they declare


@pytest.mark.parametrize("attack", ATTACKS)
def test_they_are_class_inversions_of_an_adversary_with_the_weights(attack: ClassInversion) -> None:
    assert isinstance(attack, ClassInversion)
    assert attack.threat.obstacle(Access.WEIGHTS, Exposure.LABEL, auxiliary=False) == ""
    assert "weights" in attack.threat.obstacle(Access.RELEASE, Exposure.LOGITS, auxiliary=True)


@pytest.mark.parametrize("attack", ATTACKS)
def test_without_the_weights_they_are_refused(attack: ClassInversion) -> None:
    held = target(linear(templates(3, (1, 8, 8))), (1, 8, 8), 3, access=Access.RELEASE)
    with pytest.raises(AccessError, match="weights"):
        attack.reconstruct_classes(held, np.arange(3), 0, quiet)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "mse"},
        {"steps": 0},
        {"restarts": 0},
        {"transforms": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"total_variation": -1.0},
        {"total_variation": float("nan")},
        {"shift": 1.0},
        {"scale": -0.1},
    ],
)
def test_gradient_refuses_impossible_parameters(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Gradient(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"beta": 0}, {"gamma": 1.0}, {"gamma": float("nan")}, {"learning_rate": float("inf")}]
)
def test_mi_face_refuses_impossible_parameters(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MIFace(**wrong)


@pytest.mark.parametrize("attack", [*ATTACKS, Gradient(steps=7, restarts=3, transforms=2, loss="ce")])
def test_queries_are_the_forward_passes(attack: ClassInversion) -> None:
    class Counting(nn.Module):
        rows = 0

        def __init__(self) -> None:
            super().__init__()
            self.inner = linear(templates(4, (1, 8, 8)), 1e-3)  # too weak ever to be sure: no early stop

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.rows += len(x)
            return self.inner(x)

    module = Counting()
    attack = dataclasses.replace(attack, beta=1000) if isinstance(attack, MIFace) else attack
    attack.reconstruct_classes(target(module, (1, 8, 8), 4), np.array([0, 2, 3]), 0, quiet)
    assert module.rows == attack.queries(3, 0)


# --- the stop rule of MI-Face


def column(*costs: float) -> np.ndarray:
    return np.array(costs)[:, None]


@pytest.mark.parametrize(
    ("costs", "stops"),
    [
        ((0.9, 0.8, 0.7, 0.6), False),  # falling: goes on (ART's inverted rule goes on only where this one stops)
        ((0.9, 0.8, 0.7, 0.75), False),  # a bump below the highest of the window
        ((0.9, 0.8, 0.7, 0.95), True),  # worse than each of the last three
        ((0.5, 0.5, 0.5, 0.5), True),  # no progress at all
        ((0.99, 0.5, 0.5, 0.5, 0.5), True),  # the window has moved past the .99
        ((0.5, 0.5, 0.5), False),  # fewer than three to look back on
        ((0.99,), False),
        ((0.01,), True),  # good enough at once
        ((0.9, 0.0101), False),
        ((0.9, 0.8, 0.7, 0.0), True),
    ],
)
def test_the_stop_rule(costs: tuple[float, ...], stops: bool) -> None:
    assert stopped(column(*costs), beta=3, gamma=0.01).tolist() == [stops]


def test_each_row_stops_by_itself() -> None:
    costs = np.array([[0.9, 0.9, 0.9], [0.8, 0.9, 0.005], [0.7, 0.95, 0.5]])
    assert stopped(costs, 2, 0.01).tolist() == [False, True, False]
    assert stopped(costs[:2], 2, 0.01).tolist() == [False, False, True]


def test_mi_face_is_plain_descent_until_it_is_sure() -> None:
    """One class at a time in numpy, from the published algorithm, against the batch."""
    w = templates(3, (20,)).astype(np.float64) - 0.5
    attack = MIFace(alpha=400, beta=20, gamma=0.05, learning_rate=0.3)
    module = linear(w).double()
    found = attack.reconstruct_classes(target(module, (20,), 3), np.arange(3), 0, quiet)
    for label in range(3):
        x, costs, iterates = np.zeros(20), [], []
        for _ in range(attack.alpha + 1):
            p = np.exp(w @ x) / np.exp(w @ x).sum()
            costs.append(1 - p[label])
            iterates.append(x)
            if costs[-1] <= attack.gamma or (len(costs) > 20 and costs[-1] >= max(costs[-21:-1])):
                break
            x = np.clip(x + 0.3 * p[label] * (w[label] - p @ w), 0, 1)
        np.testing.assert_allclose(found[label], iterates[int(np.argmin(costs))], atol=1e-6)


def test_mi_face_starts_from_zero_within_the_bounds() -> None:
    flat = target(linear(np.zeros((2, 1, 8, 8), np.float32)), (1, 8, 8), 2, bounds=(0.25, 0.75))
    np.testing.assert_array_equal(MIFace(alpha=3).reconstruct_classes(flat, np.arange(2), 0, quiet), 0.25)


# --- what they find


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 12), (446,)])
@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_gradient_recovers_what_a_model_has_memorised(shape: tuple[int, ...], loss: str) -> None:
    """A linear model whose weights are the classes' templates gives at least 90 % of their values away."""
    planted = templates(10, shape)
    attack = Gradient(
        loss=loss, steps=150, restarts=2, transforms=10, total_variation=0.1 if loss == "margin" else 1e-3
    )
    found = attack.reconstruct_classes(target(linear(planted - 0.5), shape, 10), np.arange(10), 0, quiet)
    assert found.shape == planted.shape
    gallery = Records(planted, np.arange(10))
    assert (nearest_identity(found, gallery) == np.arange(10)).mean() >= 0.9
    if loss == "margin":
        assert ((found > 0.5) == (planted > 0.5)).mean() >= 0.7


def test_without_views_the_template_comes_back_value_by_value() -> None:
    """Two classes, margin alone: the best image in the box is the sign of the difference of the weights."""
    w = templates(2, (1, 8, 8))
    attack = Gradient(steps=150, restarts=1, transforms=1, total_variation=0.0, shift=0.0, scale=0.0)
    found = attack.reconstruct_classes(target(linear(w), (1, 8, 8), 2), np.arange(2), 0, quiet)
    differs = w[0] != w[1]
    assert differs.any()
    np.testing.assert_allclose(found[0][differs], w[0][differs], atol=1e-6)
    np.testing.assert_allclose(found[1][differs], w[1][differs], atol=1e-6)


def test_the_scale_of_the_logits_does_not_matter() -> None:
    """A model whose logits were scaled down a thousandfold hides nothing from the margin."""
    w = templates(5, (1, 16, 16)) - 0.5
    plain, scaled = (
        QUICK.reconstruct_classes(target(linear(w, s), (1, 16, 16), 5), np.arange(5), 0, quiet) for s in (1.0, 2.0**-10)
    )
    gallery = Records(w + 0.5, np.arange(5))
    assert (nearest_identity(plain, gallery) == np.arange(5)).all()
    assert (nearest_identity(scaled, gallery) == np.arange(5)).all()
    restart = Gradient(steps=40, restarts=1, transforms=5)
    one, two = (
        restart.reconstruct_classes(target(linear(w, s), (1, 16, 16), 5), np.arange(5), 0, quiet)
        for s in (1.0, 2.0**-10)
    )
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_the_restart_that_the_model_recognises_best_is_kept() -> None:
    """Class 0 has a basin that convinces and one that does not; which one a start falls into is chance."""

    class TwoBasins(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x.mean(dim=1)
            height = torch.where(
                z < 0.5, 1 - z, 5 * z
            )  # from below .5 it runs to 0 (score 1), from above to 1 (score 5)
            return torch.stack([height, torch.zeros_like(height)], dim=1)

    def ends(restarts: int) -> list[float]:
        attack = Gradient(steps=60, restarts=restarts, transforms=1)
        held = target(TwoBasins(), (1,), 2)
        return [float(attack.reconstruct_classes(held, np.array([0]), seed, quiet)[0, 0]) for seed in range(12)]

    assert 0.0 in ends(1)
    assert ends(12) == [1.0] * 12  # all twelve starts in the wrong half: 2^-12 for each seed


def test_total_variation_smooths() -> None:
    held = target(linear(np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)), (1, 16, 16), 3)
    rough, smooth = (
        dataclasses.replace(QUICK, total_variation=weight).reconstruct_classes(held, np.arange(3), 0, quiet)
        for weight in (0.0, 1.0)
    )
    before, after = (total_variation(torch.as_tensor(x)).mean() for x in (rough, smooth))
    assert after < 0.7 * before


# --- what they must not find


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_ignores_its_input_gives_nothing_away(attack: ClassInversion) -> None:
    """Chance is 1 in 40; 6 or more of 40 by chance: under 1 in 1,000 (binomial tail 5e-4)."""

    class Deaf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 40)

    planted = Records(templates(40, (1, 16, 16)), np.arange(40))
    found = attack.reconstruct_classes(target(Deaf(), (1, 16, 16), 40), np.arange(40), 0, quiet)
    assert (nearest_identity(found, planted) == np.arange(40)).sum() < 6


@pytest.mark.parametrize("attack", ATTACKS)
def test_random_weights_give_nothing_away(attack: ClassInversion) -> None:
    """As above: false alarm under 1 in 1,000."""
    rng = np.random.default_rng(1)
    planted = Records(templates(40, (1, 16, 16)), np.arange(40))
    module = linear(rng.standard_normal((40, 1, 16, 16)).astype(np.float32))
    found = attack.reconstruct_classes(target(module, (1, 16, 16), 40), np.arange(40), 0, quiet)
    assert (nearest_identity(found, planted) == np.arange(40)).sum() < 6


# --- how they behave


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_reconstructions_stay_within_the_bounds(attack: ClassInversion, bounds: tuple[float, float]) -> None:
    held = target(linear(templates(3, (1, 8, 8)) - 0.5), (1, 8, 8), 3, bounds=bounds)
    found = attack.reconstruct_classes(held, np.arange(3), 0, quiet)
    assert found.dtype == np.float32
    assert found.min() >= bounds[0]
    assert found.max() <= bounds[1]
    if isinstance(attack, Gradient):
        assert found.max() - found.min() > 0.9 * (bounds[1] - bounds[0])  # the step goes with the range


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_seed_gives_the_same_and_the_worlds_randomness_is_left_alone(attack: ClassInversion) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    held, state = target(module, (1, 8, 8), 3), torch.get_rng_state()
    first, second, other = (attack.reconstruct_classes(held, np.arange(3), seed, quiet) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(attack, MIFace) == bool((first == other).all())


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_module_is_left_as_it_was(attack: ClassInversion) -> None:
    module = linear(templates(3, (1, 8, 8)))
    held = target(module, (1, 8, 8), 3)
    module.requires_grad_(True)  # even where somebody forgot to freeze it
    before = [p.clone() for p in module.parameters()]
    with torch.no_grad():  # and where the caller has switched gradients off
        attack.reconstruct_classes(held, np.arange(3), 0, quiet)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("attack", ATTACKS)
def test_batches_do_not_mix_classes_up(attack: ClassInversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midguard.attacks.inversion._white_box.ROWS", 3)
    planted, told = templates(7, (1, 16, 16)), []
    classes = np.array([6, 0, 3, 5])
    held = target(linear(planted - 0.5), (1, 16, 16), 7)
    found = attack.reconstruct_classes(held, classes, 0, told.append)
    assert held.query(found).argmax(axis=1).tolist() == classes.tolist()
    assert told == sorted(told)
    assert 0 < told[-1] <= 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_answers_nan_is_an_error_and_no_reconstruction(attack: ClassInversion) -> None:
    held = target(linear(np.full((2, 1, 8, 8), np.nan, np.float32)), (1, 8, 8), 2)
    with pytest.raises(AttackError, match="not finite"):
        attack.reconstruct_classes(held, np.arange(2), 0, quiet)


@pytest.mark.parametrize("attack", ATTACKS)
def test_double_precision_models_are_attacked_as_they_are(attack: ClassInversion) -> None:
    held = target(linear(templates(2, (1, 8, 8))).double(), (1, 8, 8), 2)
    assert attack.reconstruct_classes(held, np.arange(2), 0, quiet).dtype == np.float32


# --- views, roughness, gradients


def test_views_shift_scale_and_mirror() -> None:
    place = Place(torch.device("cpu"), torch.float64)
    x = torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8)
    still = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    views = Views(0.25, 0.1, True)
    assert torch.allclose(views.apply(x, still), x)
    right = still.clone()
    right[:, 0, 2] = 2 / 8  # one pixel, in coordinates from -1 to 1
    assert torch.allclose(views.apply(x, right)[..., :-1], x[..., 1:])
    mirror = still.clone()
    mirror[:, 0, 0] = -1
    assert torch.allclose(views.apply(x, mirror), x.flip(-1))
    maps = views.draw(4000, place, place.generator(0))
    assert maps[:, :, 2].abs().max() <= 0.5
    assert maps[:, :, 2].abs().max() > 0.49
    assert maps[:, 0, 0].abs().min() >= 0.9
    assert maps[:, 0, 0].abs().max() <= 1.1
    assert 0.45 < (maps[:, 0, 0] < 0).double().mean() < 0.55  # 6 standard errors
    assert (Views(0.25, 0.1, False).draw(100, place, place.generator(0))[:, 0, 0] > 0).all()
    assert (maps[:, 0, 1] == 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (56, 46), (1, 5)])
def test_the_places_of_a_view_are_those_of_torch(shape: tuple[int, int]) -> None:
    maps = torch.randn((6, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(_grid(maps, *shape), affine_grid(maps, [6, 1, *shape], align_corners=False))


def test_what_is_no_image_has_no_views_and_no_roughness() -> None:
    x = torch.rand(2, 446)
    place = Place.of(nn.Flatten())
    views = Views(0.1, 0.1, True)
    assert views.apply(x, views.draw(2, place, place.generator(0))) is x
    assert total_variation(x).tolist() == [0, 0]


def test_total_variation_is_its_definition() -> None:
    x = np.random.default_rng(0).random((2, 3, 5, 6))
    expected = np.abs(np.diff(x, axis=2)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=3)).sum((1, 2, 3))
    np.testing.assert_allclose(total_variation(torch.as_tensor(x)).numpy(), expected)


def test_gradients_are_those_of_each_row() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    slope = gradient_at(x, lambda rows: (rows**2).sum(dim=1))
    assert slope.value.tolist() == [5, 25]
    assert slope.gradient.tolist() == [[2, 4], [6, 8]]
    assert not slope.value.requires_grad
    assert gradient_at(x, lambda rows: torch.ones(2)).gradient.tolist() == [[0, 0], [0, 0]]


# --- faces


@pytest.fixture(scope="module")
def faces() -> tuple[Records, Records]:
    """Seven photographs of each of 40 people to train on, and the other three, 56 x 46."""
    if not ORL.exists():
        pytest.skip(f"the ORL faces are not beside this repository ({ORL.name})")
    stored = np.load(ORL)
    x = stored["x"].reshape(400, 1, 56, 2, 46, 2).mean(axis=(3, 5)).astype(np.float32) / 255
    records, turn = Records(x, stored["y"].astype(np.int64)), np.arange(400) % 10
    return records.take(np.flatnonzero(turn < 7)), records.take(np.flatnonzero(turn >= 7))


def softmax_regression(records: Records) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(56 * 46, 40))
    x, y = torch.as_tensor(records.x), torch.as_tensor(records.y)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        optimiser.zero_grad()
        cross_entropy(module(x), y).backward()
        optimiser.step()
    assert (module(x).argmax(1) == y).float().mean() > 0.98
    return module


@pytest.mark.shared_data
def test_faces_of_a_softmax_regression(faces: tuple[Records, Records]) -> None:
    """The reference case: who is in the training photographs can be told, and the squared error would not tell it."""
    members, others = faces
    held, people = target(softmax_regression(members), (1, 56, 46), 40), np.arange(40)
    start = time.perf_counter()
    plain = MIFace().reconstruct_classes(held, people, 0, quiet)
    strong = Gradient().reconstruct_classes(held, people, 0, quiet)
    assert time.perf_counter() - start < 60
    assert held.module()(torch.as_tensor(plain)).softmax(1).diag().min() > 0.98  # the model itself is sure of both
    assert (nearest_identity(plain, members) == people).mean() < 0.30
    assert (nearest_identity(strong, members) == people).mean() >= 0.70
    assert np.median(identity_gap(strong, people, members)) > 0

    blank = target(
        linear(np.random.default_rng(0).standard_normal((40, 1, 56, 46)).astype(np.float32)), (1, 56, 46), 40
    )
    nothing = Gradient(restarts=1, transforms=1).reconstruct_classes(blank, people, 0, quiet)
    evaluators = fit_evaluators(others, (0.0, 1.0), 0)
    assert (evaluators.accuracy > 0.6).all()
    judged = judge_classes(strong, people, members, evaluators, others, nothing)
    assert (judged.votes.sum(axis=1) >= 2).mean() >= 0.70
    assert judged.false_votes.mean(axis=0).max() < 0.15  # chance 1 in 40: 6 of 40 by chance under 1 in 1,000

    mean_face = np.repeat(members.x.mean(axis=0, keepdims=True), 40, axis=0)
    nearest = [mean_squared_error(mean_face[:1], members.x[members.y == p]).min() for p in people]
    assert np.mean(judged.mse) > np.mean(nearest)  # worse than the mean face, although it identifies
