"""Inversions that look among plausible records: their priors, their search, what they find and what they must not."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from midguard.attacks.inversion import _conditional, _gan, _latent_search, _lomma, _priors, _white_box
from midguard.attacks.inversion.gmi import GMI
from midguard.attacks.inversion.gradient import Gradient
from midguard.attacks.inversion.latent import Latent
from midguard.attacks.inversion.plg_mi import PLGMI
from midguard.engine.attack import ClassInversion, parameters_under, profile_of
from midguard.engine.errors import AccessError, AttackError
from midguard.engine.judges import Evaluators, fit_evaluators, identity_gap, nearest_identity
from midguard.engine.target import Access, Exposure, Records, Release, Target

ORL = Path(__file__).parents[2] / "shared" / "data" / "orl_faces.npz"
CPU = _white_box.Place(torch.device("cpu"), torch.float32)
SQUARE = (1, 16, 16)

#: Each attack small enough for a test.
ATTACKS = [
    pytest.param(Latent(size=24, steps=60, learning_rate=0.1, restarts=2, transforms=5), id="latent-pca"),
    pytest.param(Latent(prior="vae", size=16, steps=60, learning_rate=0.1, restarts=2, transforms=5), id="latent-vae"),
    pytest.param(GMI(steps=60, restarts=2, iterations=100, critic_steps=2, size=16, gan_learning_rate=1e-3), id="gmi"),
    pytest.param(
        PLGMI(
            network="dense",
            steps=25,
            restarts=2,
            transforms=5,
            iterations=100,
            critic_steps=2,
            size=16,
            gan_learning_rate=1e-3,
            shift=0.02,
            scale=0.02,
        ),
        id="plg-mi",
    ),
]
#: Each attack smaller still, where only its behaviour counts.
TINY = [
    pytest.param(Latent(size=4, steps=4, restarts=2, transforms=3), id="latent-pca"),
    pytest.param(Latent(prior="vae", size=4, steps=4, restarts=3, transforms=2), id="latent-vae"),
    pytest.param(GMI(steps=4, restarts=2, iterations=3, size=4, batch=8), id="gmi"),
    pytest.param(
        GMI(
            loss="logit",
            features=1.0,
            students=2,
            student_steps=3,
            steps=4,
            restarts=2,
            iterations=2,
            size=4,
            batch=8,
            network="convolutional",
        ),
        id="gmi-lomma",
    ),
    pytest.param(
        PLGMI(steps=4, restarts=2, transforms=3, iterations=3, critic_steps=2, size=4, width=8, batch=8, top=5),
        id="plg-mi",
    ),
]


def patterns(n: int, shape: tuple[int, ...] = SQUARE, seed: int = 0) -> np.ndarray:
    """Blocky black-and-white patterns: 16 blocks decide over an image."""
    rng = np.random.default_rng(seed)
    if len(shape) != 3:
        return (rng.random((n, *shape)) < 0.5).astype(np.float32)
    coarse = rng.random((n, shape[0], 4, 4)) < 0.5
    return coarse.repeat(shape[1] // 4, axis=2).repeat(shape[2] // 4, axis=3).astype(np.float32)


def owned(shape: tuple[int, ...] = SQUARE, bounds: tuple[float, float] = (0.0, 1.0), n: int = 200) -> Records:
    """Patterns that no class is made of."""
    low, high = bounds
    return Records(low + (high - low) * patterns(n, shape, seed=99), np.zeros(n, dtype=np.int64))


def linear(weights: np.ndarray, bias: float = 0.0) -> nn.Module:
    """A linear model whose rows are these. Args: weights `(classes, *shape)`."""
    rows = torch.as_tensor(weights.reshape(len(weights), -1), dtype=torch.float32)
    layer = nn.Linear(rows.shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.fill_(bias)
    return nn.Sequential(nn.Flatten(), layer)


def target(
    module: nn.Module,
    classes: int,
    auxiliary: Records | None,
    shape: tuple[int, ...] = SQUARE,
    bounds: tuple[float, float] = (0.0, 1.0),
    access: Access = Access.WEIGHTS,
) -> Target:
    module.eval().requires_grad_(False)

    def logits(x: np.ndarray) -> np.ndarray:
        return module(torch.as_tensor(x)).double().numpy()

    return Target(Release(Exposure.PROBABILITIES), access, shape, classes, bounds, auxiliary, logits, lambda: module)


def quiet(share: float) -> None:
    """Progress that nobody watches."""


class Counting(nn.Module):
    """Counts the rows that go through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return self.inner(x)


# --- what they declare


@pytest.mark.parametrize("attack", TINY)
def test_they_need_the_weights_and_records_of_their_own(attack: ClassInversion) -> None:
    assert isinstance(attack, ClassInversion)
    assert attack.threat.obstacle(Access.WEIGHTS, Exposure.LABEL, auxiliary=True) == ""
    assert "weights" in attack.threat.obstacle(Access.RELEASE, Exposure.LOGITS, auxiliary=True)
    assert "auxiliary" in attack.threat.obstacle(Access.WEIGHTS, Exposure.LOGITS, auxiliary=False)


@pytest.mark.parametrize("attack", TINY)
@pytest.mark.parametrize(
    ("access", "auxiliary", "error", "message"),
    [
        (Access.RELEASE, owned(), AccessError, "weights"),
        (Access.WEIGHTS, None, AttackError, "auxiliary records to learn a prior from, found 0"),
        (Access.WEIGHTS, owned(n=9), AttackError, "at least 10 auxiliary records .* found 9"),
    ],
)
def test_what_they_lack_they_are_refused_without(
    attack: ClassInversion, access: Access, auxiliary: Records | None, error: type[Exception], message: str
) -> None:
    held = target(linear(patterns(3)), 3, auxiliary, access=access)
    with pytest.raises(error, match=message):
        attack.reconstruct_classes(held, np.arange(3), 0, quiet)


@pytest.mark.parametrize("attack", TINY)
def test_queries_are_the_forward_passes(attack: ClassInversion) -> None:
    """Those of the model under attack alone: generators, critics and students are the adversary's own."""
    module, records = Counting(linear(patterns(4))), owned(n=23)
    attack.reconstruct_classes(target(module, 4, records), np.array([0, 2, 3]), 0, quiet)
    assert module.rows == attack.queries(3, 23)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((Latent, {name: 0}) for name in ("size", "steps", "restarts", "transforms", "learning_rate")),
        *((Latent, {name: -1.0}) for name in ("typicality", "total_variation", "shift", "scale")),
        (Latent, {"prior": "gan"}),
        (Latent, {"typicality": float("nan")}),
        (Latent, {"shift": 1.0}),
        *((GMI, {name: 0}) for name in ("steps", "restarts", "size", "iterations", "critic_steps", "student_steps")),
        *((GMI, {name: -1}) for name in ("weight", "features", "students", "penalty")),
        *((GMI, {name: float("nan")}) for name in ("weight", "learning_rate", "radius", "gan_learning_rate")),
        *((GMI, {"momentum": value}) for value in (0.0, 1.0, float("nan"))),
        (GMI, {"loss": "mse"}),
        (GMI, {"network": "transformer"}),
        (GMI, {"batch": 1}),
        *((PLGMI, {name: 0}) for name in ("top", "views", "steps", "restarts", "transforms", "size", "iterations")),
        *((PLGMI, {name: float("nan")}) for name in ("inversion", "learning_rate", "gan_learning_rate", "scale")),
        (PLGMI, {"network": "unet"}),
        (PLGMI, {"batch": 1}),
    ],
)
def test_impossible_parameters_are_refused(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_profiles() -> None:
    assert [profile_of(attack) for attack in (Latent(), GMI(), PLGMI())] == ["standard", "standard", "thorough"]
    paper = parameters_under(GMI(), "thorough")
    assert isinstance(paper, GMI)
    assert (paper.steps, paper.size, paper.network) == (1500, 100, "convolutional")
    assert parameters_under(Latent(), "thorough").queries(1, 0) > Latent().queries(1, 0)


# --- the priors


def test_eigen_images_are_those_of_the_covariance() -> None:
    """Against numpy's covariance: decode is mean + L z with L L' the covariance, where nothing is cut off."""
    rng = np.random.default_rng(0)
    x = np.clip(0.5 + 0.05 * rng.standard_normal((300, 6)) @ rng.standard_normal((6, 12)), 0, 1).astype(np.float32)
    prior = _priors.fit_pca(Records(10 * x - 5, np.zeros(300, dtype=np.int64)), (-5.0, 5.0), 64, 0, CPU)
    assert prior.size <= 12
    centre = prior.decode(torch.zeros(1, prior.size))[0].numpy()
    loading = np.stack([prior.decode(0.01 * row[None])[0].numpy() - centre for row in torch.eye(prior.size)]) / 0.01
    np.testing.assert_allclose(centre, 10 * x.mean(axis=0) - 5, atol=1e-5)
    np.testing.assert_allclose(loading.T @ loading, np.cov(10 * x.T), atol=2e-3)


def test_there_are_no_more_eigen_images_than_records_differ() -> None:
    few = Records(patterns(12), np.zeros(12, dtype=np.int64))
    assert _priors.fit_pca(few, (0.0, 1.0), 64, 0, CPU).size == 11
    assert _priors.fit_pca(few, (0.0, 1.0), 3, 0, CPU).size == 3
    same = Records(np.repeat(few.x[:1], 12, axis=0), few.y)
    with pytest.raises(AttackError, match="do not differ"):
        _priors.fit_pca(same, (0.0, 1.0), 3, 0, CPU)


def priors() -> dict[str, Callable[[], _priors.Prior]]:
    bounds, records = (-1.0, 3.0), owned(bounds=(-1.0, 3.0))
    gan = _gan.GanSettings(iterations=5, radius=1.0)
    return {
        "pca": lambda: _priors.fit_pca(records, bounds, 8, 0, CPU),
        "vae": lambda: _priors.fit_vae(records, bounds, _priors.VAESettings(size=8, steps=20), 0, CPU),
        "gan": lambda: _gan.fit_gan(records, bounds, gan, 0, CPU).prior,
        "convolutional gan": lambda: (
            _gan.fit_gan(records, bounds, dataclasses.replace(gan, network="convolutional"), 0, CPU).prior
        ),
    }


def afresh(make: Callable[[], Any]) -> Any:
    """What comes of it where no generator is kept from before."""
    _gan._last.clear()
    return make()


@pytest.mark.parametrize("name", priors())
def test_a_prior_stays_within_radius_and_bounds_and_is_the_same_for_the_same_seed(name: str) -> None:
    first, second = (afresh(priors()[name]) for _ in range(2))
    z = first.sample(500, CPU.generator(1))
    assert z.abs().max() <= first.radius
    assert z.std() > 0.5
    wild = first.decode(100 * z)
    assert wild.shape == (500, *SQUARE)
    assert wild.min() >= -1
    assert wild.max() <= 3
    assert torch.equal(first.decode(z), second.decode(z))
    leaf = z[:2].clone().requires_grad_()
    first.decode(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_the_autoencoder_learns_what_records_look_like() -> None:
    """What it makes of noise is nearer to real patterns than other noise is."""
    prior = _priors.fit_vae(owned(), (0.0, 1.0), _priors.VAESettings(size=16), 0, CPU)
    made = prior.decode(prior.sample(50, CPU.generator(0))).numpy()
    rough = [np.abs(np.diff(x.reshape(-1, 16), axis=1)).mean() for x in (made, patterns(50), np.random.rand(50, 256))]
    assert abs(rough[0] - rough[1]) < 0.4 * abs(rough[2] - rough[1])


def test_the_critics_penalty_is_its_definition() -> None:
    """A linear critic has the same gradient everywhere: its weights."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    real, fake = torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2)
    length = critic[1].weight.norm().item()
    found = _gan._penalty(critic, real, fake, CPU.generator(0)).item()
    assert found == pytest.approx((length - 1) ** 2, rel=1e-4)


def test_the_generator_learns_the_records_and_the_critic_tells_noise_from_them() -> None:
    settings = _gan.GanSettings(size=16, iterations=150, critic_steps=2, learning_rate=1e-3)
    gan = _gan.fit_gan(owned(), (0.0, 1.0), settings, 0, CPU)
    real, noise = torch.as_tensor(patterns(100, seed=5)), torch.rand(100, *SQUARE)
    made = gan.prior.decode(gan.prior.sample(100, CPU.generator(0)))
    assert gan.realism(real).mean() > gan.realism(noise).mean()
    inside = [x.reshape(-1, 4, 4, 4, 4).std(dim=(2, 4)).mean().item() for x in (made, noise)]  # within a block
    assert inside[0] < 0.6 * inside[1]


def test_a_generator_is_trained_once_for_what_decides_it() -> None:
    settings = _gan.GanSettings(size=4, iterations=2, critic_steps=1)
    shares = list[float]()
    first = _gan.fit_gan(owned(), (0.0, 1.0), settings, 0, CPU, shares.append)
    assert _gan.fit_gan(owned(), (0.0, 1.0), settings, 0, CPU, shares.append) is first
    assert shares == [0.5, 1.0, 1.0, 1.0]
    others = [
        _gan.fit_gan(owned(n=20), (0.0, 1.0), settings, 0, CPU),
        _gan.fit_gan(owned(n=20), (0.0, 2.0), settings, 0, CPU),
        _gan.fit_gan(owned(n=20), (0.0, 2.0), dataclasses.replace(settings, batch=8), 0, CPU),
        _gan.fit_gan(owned(n=20), (0.0, 2.0), dataclasses.replace(settings, batch=8), 1, CPU),
    ]
    assert len({id(gan) for gan in [first, *others]}) == 5


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 56, 46), (1, 64, 64), (3, 64, 64), (446,), (2, 3)])
@pytest.mark.parametrize("network", ["dense", "convolutional"])
def test_the_generator_stays_below_half_a_million_parameters(shape: tuple[int, ...], network: str) -> None:
    width = 64 if network == "convolutional" and len(shape) == 3 else None
    made = _gan.generator_network(64, shape, width)
    assert sum(p.numel() for p in made.parameters()) <= 500_000
    assert made(torch.zeros(2, 64)).shape == (2, *shape)
    assert _gan.critic_body(shape, width)(torch.zeros(2, *shape)).dim() == 2


def test_positions_come_once_each_time_round() -> None:
    drawn = _gan.positions(10, 3, CPU.generator(0))
    rounds = [torch.cat([next(drawn) for _ in range(3)]).tolist() for _ in range(2)]
    assert all(len(set(each)) == 9 for each in rounds)
    assert rounds[0] != rounds[1]
    assert sorted(next(_gan.positions(4, 64, CPU.generator(0))).tolist()) == [0, 1, 2, 3]


def test_pseudo_labels_are_the_models_likeliest_records() -> None:
    """Against numpy's sort; a record may stand for several classes, and class numbers may be sparse."""
    p = np.random.default_rng(0).random((30, 7))
    found = _conditional.PseudoLabels.of(torch.as_tensor(p), np.array([2, 6]), 4)
    assert [sorted(row) for row in found.chosen.tolist()] == [sorted(np.argsort(-p[:, c])[:4].tolist()) for c in (2, 6)]
    index, labels = next(found.batches(64, CPU.generator(0)))
    assert set(labels.tolist()) == {2, 6}
    assert all(
        i in found.chosen[[2, 6].index(c)].tolist() for i, c in zip(index.tolist(), labels.tolist(), strict=True)
    )
    assert _conditional.PseudoLabels.of(torch.as_tensor(p), np.array([0]), 100).chosen.shape == (1, 30)


# --- LOMMA's parts


def test_features_are_what_the_last_linear_layer_reads() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 7), nn.ReLU(), nn.Linear(7, 5)).eval().requires_grad_(False)
    x = torch.as_tensor(patterns(300))
    seen = _lomma.Watched.of(module, 5).see_all(x)
    assert torch.allclose(seen.features, module[:3](x), atol=1e-6)
    assert torch.allclose(seen.logits, module(x), atol=1e-6)
    assert not module[3]._forward_pre_hooks
    with pytest.raises(AttackError, match="linear layer over its 6 classes"):
        _lomma.Watched.of(module, 6)


def test_students_answer_as_the_model_does() -> None:
    module, records = linear(4 * (patterns(4) - 0.5)), owned()
    logits = module(torch.as_tensor(records.x))
    taught = _lomma.distil(records, logits, (0.0, 1.0), 2, 300, 0, CPU, quiet)
    unseen = torch.as_tensor(patterns(200, seed=7))
    right = module(unseen).argmax(dim=1)
    assert len(taught) == 2
    assert all((student(unseen).argmax(dim=1) == right).float().mean() > 0.7 for student in taught)  # chance .25


def test_lommas_loss_is_its_definition() -> None:
    """A linear model, whose features are the record itself, and one student: against numpy."""
    weights, records = patterns(3) - 0.5, owned(n=30)
    held, x = target(linear(weights), 3, records), patterns(4, seed=8)
    attack, labels = GMI(loss="logit", features=2.0, students=1, student_steps=2), torch.tensor([2, 0, 1, 2])
    jury = attack._jury(held, held.module(), 0, CPU)
    found = attack._identity(jury, torch.as_tensor(x), labels).numpy()
    logits = x.reshape(4, -1) @ weights.reshape(3, -1).T
    taught = jury.students[0](torch.as_tensor(x)).numpy()
    own = np.stack([each[np.arange(4), labels.numpy()] for each in (logits, taught)])
    far = ((x - records.x.mean(axis=0)) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, -own.mean(axis=0) + 2.0 * far, rtol=1e-4)


# --- the search


def test_the_descent_is_gmis_momentum_with_the_box() -> None:
    """v' = m v - r g; z' = z - m v + (1 + m) v'; then z alone is put back into [-1, 1]."""
    weights = np.array([[3.0, -0.2, 0.4], [-1.0, 2.0, 0.1]])

    class Box:
        radius = 1.0

        def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
            return torch.tensor([[0.5, -0.5, 0.9], [0.1, 0.2, -0.3]], dtype=torch.float64)

    def objective(z: torch.Tensor) -> torch.Tensor:
        return (torch.as_tensor(weights) * z).sum(dim=1) + z.square().sum(dim=1)

    search = _latent_search.Search(25, _latent_search.momentum(0.02, 0.9))
    found = _latent_search.descend(Box(), search, _latent_search.plainly(objective), 2, CPU.generator(0), quiet)
    z, v = Box().sample(2, CPU.generator(0)).numpy(), np.zeros((2, 3))
    for _ in range(25):
        before = v.copy()
        v = 0.9 * v - 0.02 * (weights + 2 * z)
        z = np.clip(z - 0.9 * before + 1.9 * v, -1, 1)
    np.testing.assert_allclose(found.numpy(), z, atol=1e-12)
    assert (np.abs(z) == 1).any()  # the box was met


def test_the_best_restart_of_each_class_is_kept_even_where_every_score_is_negative() -> None:
    """Published code compares with 0 first, and reads the scores of class i in row i: neither picks these."""
    scores = {7: [-3.0, -1.0, -2.0], 2: [-9.0, -8.0, -7.0]}
    left = {label: iter(range(3)) for label in scores}
    drawn: list[tuple[int, int]] = []

    def attempt(labels: torch.Tensor, progress: Callable[[float], None]) -> torch.Tensor:
        drawn[:] = [(label, next(left[label])) for label in labels.tolist()]
        return torch.tensor([[10.0 * label + number] for label, number in drawn])

    def score(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tensor([scores[label][number] for label, number in drawn])

    found = _white_box.best_restarts(np.array([7, 2]), 3, CPU, (1,), attempt, score, quiet)
    assert found[:, 0].tolist() == [71.0, 22.0]


def test_eigen_images_and_a_linear_model_have_their_answer_in_closed_form() -> None:
    """Two classes, no views: z = L'(w0 - w1) over its root mean square and the typicality, so x = mean + L z."""
    shape, rng = (6,), np.random.default_rng(0)
    x = (0.5 + 0.02 * rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))).astype(np.float32)
    w = rng.standard_normal((2, 6))
    held = target(linear(w), 2, Records(x, np.zeros(400, dtype=np.int64)), shape)
    found = Latent(steps=600, typicality=2.0, restarts=1, transforms=1).reconstruct_classes(
        held, np.arange(2), 0, quiet
    )
    covariance = np.cov(x.T.astype(np.float64))
    direction = covariance @ (w[0] - w[1])
    length = 2.0 * np.sqrt((w[0] - w[1]) @ direction / 6)  # typicality times the root mean square of L'(w0 - w1)
    for label, sign in ((0, 1), (1, -1)):
        np.testing.assert_allclose(found[label], x.mean(axis=0) + sign * direction / length, atol=2e-3)


def test_what_comes_back_is_a_record_of_the_prior_and_no_view_of_one() -> None:
    """Looking through a shifted or scaled view blurs the edges of blocks; what is returned has them sharp."""
    held = target(linear(patterns(4) - 0.5), 4, owned())
    attack = Latent(size=16, steps=40, restarts=1, transforms=5, shift=0.3, scale=0.3, typicality=3.0)
    blocks = attack.reconstruct_classes(held, np.arange(4), 0, quiet).reshape(4, 4, 4, 4, 4)
    assert blocks.std(axis=(2, 4)).max() < 1e-4
    assert blocks.mean(axis=(2, 4)).std() > 0.02


@pytest.mark.parametrize("name", ["latent", "gmi", "plg_mi", "_latent_search", "_gan", "_conditional", "_lomma"])
def test_no_judge_is_asked_which_restart_or_step_to_keep(name: str) -> None:
    """They import nothing that could tell them what the members look like."""
    path = Path(_priors.__file__).with_name(f"{name}.py")
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert named
    assert not any(word in module for module in named for word in ("judges", "controls", "subject", "measures"))


# --- what they find


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("bias", [0.0, -30.0])
def test_a_planted_leak_is_found_whatever_the_sign_of_the_logits(attack: ClassInversion, bias: float) -> None:
    """The weights are the classes' patterns; 5 of 8 by chance (1 in 8 each): under 1 in 1,000."""
    planted = patterns(8, seed=3)
    held = target(linear(planted - 0.5, bias), 8, owned())
    found = attack.reconstruct_classes(held, np.arange(8), 0, quiet)
    assert (nearest_identity(found, Records(planted, np.arange(8))) == np.arange(8)).sum() >= 5


@pytest.mark.parametrize("attack", ATTACKS[:1] + ATTACKS[2:3])
def test_records_without_neighbours_are_found_too(attack: ClassInversion) -> None:
    planted = patterns(8, (30,), seed=3)
    held = target(linear(planted - 0.5), 8, owned((30,)), (30,))
    found = attack.reconstruct_classes(held, np.arange(8), 0, quiet)
    assert found.shape == (8, 30)
    assert (nearest_identity(found, Records(planted, np.arange(8))) == np.arange(8)).sum() >= 5


@pytest.fixture(scope="module")
def digits() -> tuple[Records, Records, Records]:
    """Handwritten digits: what a model is trained on, what its adversary owns, and what judges learn from."""
    bunch = load_digits()
    records = Records((bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(records))
    return records.take(order[:600]), records.take(order[600:1200]), records.take(order[1200:])


@pytest.fixture(scope="module")
def evaluators(digits: tuple[Records, Records, Records]) -> Evaluators:
    return fit_evaluators(digits[2], (0.0, 1.0), 0)


def trained(records: Records) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x, y = torch.as_tensor(records.x), torch.as_tensor(records.y)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        cross_entropy(module(x), y).backward()
        optimiser.step()
    return module


@pytest.mark.parametrize("attack", ATTACKS)
def test_digits_are_recognised_by_judges_who_never_saw_the_model(
    attack: ClassInversion, digits: tuple[Records, Records, Records], evaluators: Evaluators
) -> None:
    """A majority of three evaluators; 7 of 10 by chance (1 in 10 each): under 1 in 100,000."""
    members, owns, _ = digits
    held = target(trained(members), 10, owns, (1, 8, 8))
    found = attack.reconstruct_classes(held, np.arange(10), 0, quiet)
    assert (evaluators.votes(found, np.arange(10)).sum(axis=1) >= 2).sum() >= 7


# --- what they must not find


def deaf(classes: int) -> nn.Module:
    class Deaf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), classes)

    return Deaf()


def random_linear(classes: int, values: int) -> nn.Module:
    return linear(np.random.default_rng(1).standard_normal((classes, values)).astype(np.float32))


def untrained(classes: int, values: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(values, 64), nn.ReLU(), nn.Linear(64, classes))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", ["deaf", "random"])
def test_a_model_that_knows_nothing_gives_nothing_away(attack: ClassInversion, kind: str) -> None:
    """Chance is 1 in 40; 6 or more of 40 by chance: under 1 in 1,000 (binomial tail 5e-4)."""
    planted = Records(patterns(40, seed=3), np.arange(40))
    module = {"deaf": deaf(40), "random": random_linear(40, 256)}[kind]
    found = attack.reconstruct_classes(target(module, 40, owned()), np.arange(40), 0, quiet)
    assert (nearest_identity(found, planted) == np.arange(40)).sum() < 6


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", ["deaf", "random", "untrained"])
def test_a_model_that_knows_nothing_leaves_the_distance_at_the_guess(
    attack: ClassInversion, kind: str, digits: tuple[Records, Records, Records]
) -> None:
    """The adversary owns other digits than those he is after, so that his best guess is their mean."""
    members, owns, _ = digits
    owns, people = owns.take(np.flatnonzero(owns.y >= 5)), np.arange(5)
    module = {"deaf": deaf(5), "random": random_linear(5, 64), "untrained": untrained(5, 64)}[kind]
    found = attack.reconstruct_classes(target(module, 5, owns, (1, 8, 8)), people, 0, quiet)
    guess = np.repeat(owns.x.mean(axis=0, keepdims=True), 5, axis=0)
    assert np.median(nearest(found, people, members)) >= 0.97 * np.median(nearest(guess, people, members))


def nearest(images: np.ndarray, classes: np.ndarray, members: Records) -> np.ndarray:
    """Mean squared error to the nearest member of each class, by definition."""
    own = [members.x[members.y == label] for label in classes]
    return np.array([((x - image) ** 2).mean(axis=(1, 2, 3)).min() for x, image in zip(own, images, strict=True)])


# --- how they behave


@pytest.mark.parametrize("attack", TINY)
def test_the_same_seed_gives_the_same_and_nothing_else_is_touched(attack: ClassInversion) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))
    held, state = target(module, 3, owned(n=30)), torch.get_rng_state()
    module.requires_grad_(True)  # even where somebody forgot to freeze it
    before = [p.clone() for p in module.parameters()]
    with torch.no_grad():  # and where the caller has switched gradients off
        first, second, other = (
            afresh(partial(attack.reconstruct_classes, held, np.arange(3), seed, quiet)) for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("attack", TINY)
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0)])
def test_reconstructions_stay_within_the_bounds_and_models_may_be_double(
    attack: ClassInversion, bounds: tuple[float, float]
) -> None:
    held = target(linear(patterns(3) - 0.5).double(), 3, owned(bounds=bounds, n=30), bounds=bounds)
    found = attack.reconstruct_classes(held, np.arange(3), 0, quiet)
    assert found.dtype == np.float32
    assert found.shape == (3, *SQUARE)
    assert found.min() >= bounds[0]
    assert found.max() <= bounds[1]
    assert found.std() > 0.02 * (bounds[1] - bounds[0])


@pytest.mark.parametrize("attack", ATTACKS)
def test_batches_do_not_mix_classes_up(attack: ClassInversion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class numbers lie beyond the rows of any batch, and the restarts of one class fall into two batches."""
    monkeypatch.setattr("midguard.attacks.inversion._white_box.ROWS", 3)
    told: list[float] = []
    classes, planted = np.array([38, 5, 21, 33]), np.full((40, *SQUARE), 0.5, np.float32)
    coarse = hadamard(16)[[3, 5, 9, 14]].reshape(4, 1, 4, 4) > 0  # of different classes, half of the blocks agree
    planted[classes] = coarse.repeat(4, axis=2).repeat(4, axis=3)  # what the model knows nothing of has logit 0
    held = target(linear(planted - 0.5), 40, owned())
    found = attack.reconstruct_classes(held, classes, 0, told.append)
    assert held.query(found).argmax(axis=1).tolist() == classes.tolist()
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("attack", TINY)
def test_a_model_that_answers_nan_is_an_error_and_no_reconstruction(attack: ClassInversion) -> None:
    held = target(linear(np.full((2, *SQUARE), np.nan, np.float32)), 2, owned(n=30))
    with pytest.raises(AttackError, match="finite"):
        attack.reconstruct_classes(held, np.arange(2), 0, quiet)


# --- faces


@pytest.mark.shared_data
@pytest.mark.skipif(not ORL.exists(), reason="the ORL faces are not beside this repository")
def test_other_peoples_faces_bring_the_reconstructions_nearer_to_the_photographs() -> None:
    """People 1-20 behind a softmax regression, the adversary owns faces 21-40: nearer than his mean face."""
    stored = np.load(ORL)
    x = stored["x"].reshape(400, 1, 56, 2, 46, 2).mean(axis=(3, 5)).astype(np.float32) / 255
    records, turn, people = Records(x, stored["y"].astype(np.int64)), np.arange(400) % 10, np.arange(20)
    members = records.take(np.flatnonzero((turn < 7) & (records.y < 20)))
    module = nn.Sequential(nn.Flatten(), nn.Linear(56 * 46, 20))
    nn.init.zeros_(module[1].weight)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        optimiser.zero_grad()
        cross_entropy(module(torch.as_tensor(members.x)), torch.as_tensor(members.y)).backward()
        optimiser.step()
    owns = records.take(np.flatnonzero(records.y >= 20))
    held = target(module, 20, owns, (1, 56, 46))
    blind = Gradient(restarts=1, steps=100, transforms=1).reconstruct_classes(held, people, 0, quiet)
    guided = Latent(restarts=1, steps=150, transforms=1).reconstruct_classes(held, people, 0, quiet)
    guess = nearest(np.repeat(owns.x.mean(axis=0, keepdims=True), 20, axis=0), people, members)
    assert np.median(nearest(guided, people, members)) < 0.85 * np.median(guess)
    assert np.median(nearest(blind, people, members)) > np.median(guess)
    assert np.median(identity_gap(guided, people, members)) > 0
    evaluators = fit_evaluators(records.take(np.flatnonzero((turn >= 7) & (records.y < 20))), (0.0, 1.0), 0)
    assert (evaluators.votes(guided, people).sum(axis=1) >= 2).mean() >= 0.5  # chance 1 in 20
