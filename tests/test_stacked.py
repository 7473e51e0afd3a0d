"""Networks trained side by side: the same models as one by one, and by Opacus; refused where they could not be."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.defenses import _run
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.ensembles import Ensemble, Part
from midguard.engine.ensembles._chance import Chance
from midguard.engine.ensembles._protocol import Weights
from midguard.engine.ensembles.stacked import Stacked
from midguard.engine.errors import InputError, MidguardError
from midguard.engine.recipe import Augmentation, OptimizerChoice, Recipe, Schedule
from midguard.engine.subject import Task
from midguard.engine.target import Records
from midguard.engine.training import fit

TASK = Task("classification", 3, (1, 4, 4), (0.0, 1.0))
TOLERANCE = 1e-5


def some_records(n: int = 91, seed: int = 0) -> Records:
    """Three classes that a linear model tells apart, every tenth label wrong."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.uniform(0, 0.5, (n, *TASK.shape))
    x[np.arange(n), 0, y, :] += 0.5
    y[::10] = rng.integers(0, 3, len(y[::10]))
    return Records(x.astype(np.float32), y.astype(np.int64))


def parts_of(n: int, *sizes: int) -> list[Part]:
    """Complementary halves of n, then samples of these sizes; seeds small and large."""
    rng = np.random.default_rng(7)
    order = rng.permutation(n)
    chosen = [order[: n // 2], order[n // 2 :], *(rng.permutation(n)[:size] for size in sizes)]
    return [Part(np.sort(own), i if i % 2 else 2**62 + i) for i, own in enumerate(chosen)]


def recipe_of(**changes: Any) -> Recipe:
    return dataclasses.replace(Recipe(Mlp((8,)), TASK, OptimizerChoice(lr=0.3), epochs=4, batch_size=16), **changes)


def stacked(recipe: Recipe, pool: Records, parts: list[Part]) -> tuple[Weights, ...]:
    return Stacked().train(recipe, pool, parts, lambda share: None)


def one_by_one(recipe: Recipe, pool: Records, part: Part) -> dict[str, NDArray[np.float32]]:
    state = fit(recipe, pool.take(part.records), part.seed).module.state_dict()
    return {name: value.numpy() for name, value in state.items()}


def distance(one: Weights, other: Weights) -> float:
    """Largest difference of any weight; the names and shapes must agree."""
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert list(one) == list(other)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def answers(recipe: Recipe, weights: Weights, x: NDArray[np.float32]) -> NDArray[np.float32]:
    module = recipe.architecture.build(recipe.task.shape, recipe.task.classes).eval()
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    with torch.no_grad():
        return np.asarray(module(torch.tensor(x)))


# --- plain training --------------------------------------------------------------------------------------------------

PLAIN: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": OptimizerChoice("sgd", 0.1, 0.9)},
    "sgd with decay": {"optimizer": OptimizerChoice("sgd", 0.1, 0.0, 0.05)},
    "momentum with decay": {"optimizer": OptimizerChoice("sgd", 0.1, 0.9, 0.05)},
    "adam": {"optimizer": OptimizerChoice("adam", 0.01)},
    "adam with decay": {"optimizer": OptimizerChoice("adam", 0.01, 0.0, 0.1)},
    "adamw": {"optimizer": OptimizerChoice("adamw", 0.01, 0.0, 0.5)},
    "cosine": {"schedule": Schedule("cosine")},
    "step": {"schedule": Schedule("step", every=2, factor=0.2)},
    "warmup": {"schedule": Schedule(warmup=3), "optimizer": OptimizerChoice("adam", 0.02)},
    "dropout": {"architecture": Mlp((8, 6), dropout=0.3)},
    "dropout behind tanh": {"architecture": Mlp((8, 6), "tanh", 0.3)},
    "wide dropout": {"architecture": Mlp((700,), dropout=0.5), "batch_size": 48, "epochs": 2},
    "tanh": {"architecture": Mlp((8,), "tanh")},
    "deep": {"architecture": Mlp((9, 8, 7))},
    "no hidden layer": {"architecture": Mlp(())},
    "linear": {"architecture": Linear()},
    "shift": {"augmentation": Augmentation(shift=1)},
    "flip": {"augmentation": Augmentation(flip=True)},
    "noise": {"augmentation": Augmentation(noise=0.2)},
    "everything varied": {"augmentation": Augmentation(1, True, 0.2), "architecture": Mlp((8,), dropout=0.2)},
    "batches of one": {"batch_size": 1, "epochs": 2, "optimizer": OptimizerChoice(lr=0.05)},
    "one batch": {"batch_size": 200},
}


@pytest.mark.parametrize("changes", PLAIN.values(), ids=PLAIN)
def test_the_same_models_as_one_by_one(changes: dict[str, Any]) -> None:
    """Among them halves of an odd number, 45 and 46; whole batches, 48; one record."""
    recipe, pool, parts = recipe_of(**changes), some_records(), parts_of(91, 48, 1)
    trained = stacked(recipe, pool, parts)
    assert len(trained) == len(parts)
    for part, weights in zip(parts, trained, strict=True):
        expected = one_by_one(recipe, pool, part)
        assert distance(weights, expected) < TOLERANCE
        assert np.allclose(answers(recipe, weights, pool.x), answers(recipe, expected, pool.x), atol=1e-4)
    for one, other in itertools.combinations(trained, 2):
        assert distance(one, other) > 0.01, "and they are different models"


def test_it_learns_what_it_is_shown() -> None:
    recipe, pool = recipe_of(epochs=60), some_records(120)
    inside = np.arange(60)
    (weights,) = stacked(recipe, pool, [Part(inside, 1)])
    right = answers(recipe, weights, pool.x).argmax(axis=1) == pool.y
    assert right[inside].mean() > 0.9


def test_tables_and_more_records_than_a_shuffle_at_once() -> None:
    """Records without image shape; thousands of them, so that every branch of torch's permutation is met."""
    rng = np.random.default_rng(0)
    task = Task("classification", 4, (5,), (-9.0, 9.0))
    pool = Records(rng.normal(size=(6001, 5)).astype(np.float32), rng.integers(0, 4, 6001))
    recipe = recipe_of(task=task, batch_size=500, epochs=2)
    parts = parts_of(6001)
    for part, weights in zip(parts, stacked(recipe, pool, parts), strict=True):
        assert distance(weights, one_by_one(recipe, pool, part)) < TOLERANCE


# --- DP-SGD ----------------------------------------------------------------------------------------------------------


def inject(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let the subject's mechanism draw the very samples and noise that the stacked training draws for a seed."""

    class Injected:
        digest = ""

        def __init__(self) -> None:
            self._chance = Chance(seed)
            self.poisson_sample = self._chance.poisson_sample

        def fill(self, out: NDArray[np.float64], deviation: float) -> None:
            out[:] = self._chance.normals(len(out)).astype(np.float64) * deviation

    monkeypatch.setattr(_run, "Secret", Injected)
    monkeypatch.setattr(_run, "epsilon_so_far", lambda *_: 0.0)  # takes seconds, and is not looked at


MECHANISM = DpSgd(noise_multiplier=1.0, delta=1e-4, clipping_norm=0.5)
PRIVATE: dict[str, dict[str, Any]] = {
    "sgd": {},
    "loose clipping": {"defense": DpSgd(noise_multiplier=0.05, delta=1e-4, clipping_norm=4.0)},
    "momentum with decay": {"optimizer": OptimizerChoice("sgd", 0.1, 0.9, 0.05)},
    "adam": {"optimizer": OptimizerChoice("adam", 0.01)},
    "adamw": {"optimizer": OptimizerChoice("adamw", 0.01, 0.0, 0.5)},
    "deep": {"architecture": Mlp((8, 7), "tanh"), "schedule": Schedule("cosine", warmup=1)},
    "linear": {"architecture": Linear()},
    "varied": {"architecture": Mlp((8,), dropout=0.3), "augmentation": Augmentation(1, True, 0.1)},
    "empty samples": {"batch_size": 1, "epochs": 2, "optimizer": OptimizerChoice(lr=0.05)},
}


@pytest.mark.parametrize("changes", PRIVATE.values(), ids=PRIVATE)
def test_dp_sgd_is_the_subjects(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pool, parts = recipe_of(**{"defense": MECHANISM} | changes), some_records(), parts_of(91)
    for part, weights in zip(parts, stacked(recipe, pool, parts), strict=True):
        inject(monkeypatch, part.seed)
        assert distance(weights, one_by_one(recipe, pool, part)) < TOLERANCE


def test_the_samples_of_that_case_are_sometimes_empty() -> None:
    chance = Chance(parts_of(91)[0].seed)
    assert any(len(chance.poisson_sample(45, 1 / 45)) == 0 for _ in range(90))


def test_a_record_without_a_finite_gradient_counts_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = some_records()
    pool.x[::9] = 3e38
    recipe, parts = recipe_of(defense=MECHANISM, optimizer=OptimizerChoice(lr=0.1), epochs=3), parts_of(91)
    for part, weights in zip(parts, stacked(recipe, pool, parts), strict=True):
        inject(monkeypatch, part.seed)
        assert distance(weights, one_by_one(recipe, pool, part)) < TOLERANCE
    clean = some_records()
    assert distance(stacked(recipe, clean, parts)[0], stacked(recipe, pool, parts)[0]) > 0.001


def test_a_target_epsilon_gets_the_noise_of_its_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    # The search takes seconds and has its own tests: here it must be asked for the run that `fit` would ask for.
    monkeypatch.setattr(
        "midguard.engine.defenses.dp_sgd.noise_for", lambda run, epsilon, delta: 3 * run.steps / epsilon
    )
    recipe = recipe_of(defense=DpSgd(target_epsilon=8.0, delta=1e-4), epochs=2)
    pool, parts = some_records(), [Part(np.arange(60), 3), Part(np.arange(30), 4)]
    for part, weights in zip(parts, stacked(recipe, pool, parts), strict=True):
        inject(monkeypatch, part.seed)
        assert distance(weights, one_by_one(recipe, pool, part)) < TOLERANCE


def test_the_noise_is_as_large_as_the_mechanism_says() -> None:
    """One step without any gradient to speak of: w - w₀ is normal with deviation η σ C / batch size."""
    mechanism = DpSgd(noise_multiplier=2000.0, delta=1e-4, clipping_norm=0.5)
    recipe = recipe_of(architecture=Mlp((60,)), defense=mechanism, epochs=1, batch_size=91)
    pool, moves = some_records(), []
    for seed in range(6):
        (weights,) = stacked(recipe, pool, [Part(np.arange(91), seed)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = recipe.architecture.build(TASK.shape, TASK.classes).state_dict()
        moves.append(np.concatenate([(weights[name] - start[name].numpy()).ravel() for name in weights]))
    expected = 0.3 * 2000 * 0.5 / 91
    moved = np.concatenate(moves) / expected
    assert abs(moved.var() - 1) < 4 * math.sqrt(2 / len(moved))
    assert stats.kstest(moved, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(moves)[np.triu_indices(6, 1)]).max() < 4 / math.sqrt(len(moves[0]))


@pytest.mark.parametrize(
    ("mechanism", "records", "match"),
    [(DpSgd(noise_multiplier=1.0, delta=0.1), 45, "δ"), (MECHANISM, 15, "batch_size 16 is larger")],
)
def test_what_the_defense_refuses_is_refused(mechanism: DpSgd, records: int, match: str) -> None:
    recipe, part = recipe_of(defense=mechanism), Part(np.arange(records), 1)
    for way in (stacked, lambda recipe, pool, parts: one_by_one(recipe, pool, parts[0])):
        with pytest.raises(InputError, match=match):
            way(recipe, some_records(), [part])


# --- chance ----------------------------------------------------------------------------------------------------------


def test_chance_is_normal_and_repeats_itself() -> None:
    drawn = Chance(5).normals(100_000)
    assert drawn.dtype == np.float32
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert (Chance(5).normals(100_000) == drawn).all()
    assert abs(np.corrcoef(Chance(6).normals(100_000), drawn)[0, 1]) < 0.015
    scaled = torch.empty(100_000)
    Chance(5).fill(scaled, 3.0)
    assert np.allclose(scaled.numpy(), 3 * drawn)


def test_chance_samples_each_record_with_its_probability() -> None:
    chance = Chance(5)
    samples = [chance.poisson_sample(500, 0.2) for _ in range(400)]
    assert all((np.diff(sample) > 0).all() and sample.dtype == np.int64 for sample in samples)
    sizes = np.array([len(sample) for sample in samples])
    assert abs(sizes.mean() - 100) < 4 * math.sqrt(500 * 0.2 * 0.8 / 400)
    assert sizes.var() == pytest.approx(80, rel=0.3), "binomial, not fixed"
    counts = np.bincount(np.concatenate(samples), minlength=500)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert len(chance.poisson_sample(500, 1.0)) == 500
    assert len(chance.poisson_sample(500, 0.0)) == 0


def test_noise_and_samples_do_not_wait_for_each_other() -> None:
    one, other = Chance(5), Chance(5)
    first = one.poisson_sample(50, 0.5), one.normals(10)
    second = other.normals(10), other.poisson_sample(50, 0.5)
    assert (first[0] == second[1]).all()
    assert (first[1] == second[0]).all()


# --- what it promises around the numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("defense", [None, MECHANISM])
def test_the_same_seeds_give_the_same_bits_and_nothing_else_is_touched(defense: DpSgd | None) -> None:
    recipe = recipe_of(defense=defense, architecture=Mlp((8,), dropout=0.3), augmentation=Augmentation(noise=0.1))
    pool, parts = some_records(), parts_of(91)
    x, y = pool.x.copy(), pool.y.copy()
    torch.manual_seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    one = stacked(recipe, pool, parts)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.is_grad_enabled()
    assert (pool.x == x).all()
    assert (pool.y == y).all()
    same = stacked(recipe, pool, parts)
    assert max(map(distance, one, same)) == 0


@pytest.mark.parametrize("defense", [None, MECHANISM])
def test_the_company_changes_nothing(defense: DpSgd | None) -> None:
    recipe, pool, parts = recipe_of(defense=defense), some_records(), parts_of(91, 20, 70)
    together = stacked(recipe, pool, parts)
    backwards = stacked(recipe, pool, parts[::-1])[::-1]
    for part, one, other in zip(parts, together, backwards, strict=True):
        assert distance(one, other) < TOLERANCE
        assert distance(one, stacked(recipe, pool, [part])[0]) < TOLERANCE


def test_each_array_is_its_own() -> None:
    trained = stacked(recipe_of(), some_records(), parts_of(91))
    arrays = [array for weights in trained for array in weights.values()]
    assert all(array.dtype == np.float32 and array.flags.c_contiguous and array.flags.owndata for array in arrays)
    built = recipe_of().architecture.build(TASK.shape, TASK.classes).state_dict()
    assert {name: tuple(value.shape) for name, value in built.items()} == {k: v.shape for k, v in trained[0].items()}


@pytest.mark.parametrize("defense", [None, MECHANISM])
def test_progress_is_told_at_least_every_epoch(defense: DpSgd | None) -> None:
    told: list[float] = []
    Stacked().train(recipe_of(defense=defense), some_records(), parts_of(91, 20), told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    assert max(np.diff([0, *told])) <= 1 / 4 + 1e-9


@pytest.mark.parametrize(
    "way", [stacked, lambda recipe, pool, parts: one_by_one(recipe, pool, parts[0])], ids=["stacked", "fit"]
)
@pytest.mark.parametrize("choice", [OptimizerChoice(lr=1e30), OptimizerChoice("adam", 1e30)], ids=["sgd", "adam"])
def test_a_training_that_diverges_stops(choice: OptimizerChoice, way: Callable[..., object]) -> None:
    with pytest.raises(MidguardError, match=r"diverged in epoch .* became NaN or infinite; lower optimizer\.lr"):
        way(recipe_of(optimizer=choice), some_records(), parts_of(91))


def test_dp_training_that_diverges_stops() -> None:
    mechanism = DpSgd(noise_multiplier=1e38, delta=1e-4)
    with pytest.raises(MidguardError, match="the weights became NaN"):
        stacked(recipe_of(defense=mechanism, optimizer=OptimizerChoice(lr=1e30)), some_records(), parts_of(91))


def test_records_that_are_not_the_tasks_are_refused() -> None:
    pool, parts = some_records(), parts_of(91)
    with pytest.raises(InputError, match="no records"):
        stacked(recipe_of(), pool, [*parts, Part(np.zeros(0, np.int64), 1)])
    with pytest.raises(InputError, match="shape"):
        stacked(recipe_of(), Records(pool.x[:, :, :3], pool.y), parts)
    with pytest.raises(InputError, match="labels outside"):
        stacked(recipe_of(), Records(pool.x, pool.y + 1), parts)
    with pytest.raises(InputError, match="NaN"):
        stacked(recipe_of(), Records(np.full_like(pool.x, np.nan), pool.y), parts)
    assert stacked(recipe_of(), pool, []) == ()


class Unknown:
    """A defense that nobody stacks."""

    def protect(self, setting: object) -> Any:
        raise NotImplementedError


def test_obstacles() -> None:
    way: Ensemble = Stacked()
    assert way.obstacle(recipe_of(), "cpu") == ""
    assert way.obstacle(recipe_of(architecture=Linear(), defense=MECHANISM), "cpu") == ""
    assert "not cnn" in way.obstacle(recipe_of(architecture=Cnn()), "cpu")
    assert "cuda" in way.obstacle(recipe_of(), "cuda")
    assert "not unknown" in way.obstacle(recipe_of(defense=Unknown()), "cpu")


_LIGHT = """
import sys
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.ensembles.stacked import Stacked
from midguard.engine.recipe import Recipe
from midguard.engine.subject import Task
recipe = Recipe(Mlp(), Task("classification", 2, (3,), (0.0, 1.0)))
assert Stacked().obstacle(recipe, "cpu") == "" and Stacked().memory(recipe, 10, 2) > 0
sys.exit("torch" in sys.modules)
"""


def test_asking_imports_no_torch() -> None:
    assert subprocess.run([sys.executable, "-c", _LIGHT], check=False, timeout=60).returncode == 0


def test_memory_counts_what_is_held() -> None:
    """MLP 446-128-30: 61,086 parameters of four bytes; weights and momentum are held, and the copies handed out."""
    task = Task("classification", 30, (446,), (0.0, 1.0))
    recipe = recipe_of(architecture=Mlp((128,)), task=task, optimizer=OptimizerChoice("sgd", 0.1, 0.9))
    way, weights = Stacked(), 4 * 61_086
    eight = way.memory(recipe, 2500, 8)
    assert 8 * 4 * weights < eight < 8 * 8 * weights
    assert way.memory(recipe, 2500, 16) == 2 * eight
    adam = dataclasses.replace(recipe, optimizer=OptimizerChoice("adam", 0.1))
    assert way.memory(adam, 2500, 8) - eight == pytest.approx(8 * 2 * weights)
    private = dataclasses.replace(recipe, defense=MECHANISM)
    assert way.memory(private, 2500, 8) - eight > 8 * weights, "noise"
