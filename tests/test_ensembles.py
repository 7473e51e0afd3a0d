"""Ways to train many models: the same models as one by one, whatever the way, and chance that only references have."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from midguard.engine import registry
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.mnist_cnn import MnistCnn
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.defenses import _run
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.ensembles import Ensemble, Part
from midguard.engine.ensembles._chance import Chance
from midguard.engine.ensembles._memory import footprint
from midguard.engine.ensembles._one import Work
from midguard.engine.ensembles._private import PrivateSteps
from midguard.engine.ensembles.bookkeeping import BookKeeping
from midguard.engine.ensembles.sequential import Sequential
from midguard.engine.errors import InputError, MidguardError
from midguard.engine.recipe import Augmentation, OptimizerChoice, Recipe, Schedule
from midguard.engine.subject import Task
from midguard.engine.target import Records
from midguard.engine.training import fit

NAMES = registry.names("ensembles")
IMAGE, ROW = (3, 9, 7), (11,)
SIZES = (21, 22, 21, 9)
EVERY_KIND = Augmentation(shift=1, flip=True, noise=0.05)
PRIVATE = DpSgd(noise_multiplier=0.8, delta=1e-3, clipping_norm=0.7)

PLAIN: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "cnn": (Cnn((3, 5), (6,)), IMAGE, {"optimizer": OptimizerChoice("sgd", 0.1, 0.9)}),
    "cnn, everything": (
        Cnn((3, 4), (6, 5), norm="group", dropout=0.3),
        IMAGE,
        {
            "optimizer": OptimizerChoice("adam", 0.01, weight_decay=0.01),
            "schedule": Schedule("cosine", warmup=1),
            "augmentation": EVERY_KIND,
        },
    ),
    "cnn, varied": (Cnn((3,), ()), IMAGE, {"augmentation": EVERY_KIND, "schedule": Schedule("step", every=1)}),
    # Few steps: of its many ReLUs one may stand within a rounding of zero, where two right answers part for good.
    "resnet8": (
        Resnet8(4),
        IMAGE,
        {"optimizer": OptimizerChoice("sgd", 0.01, 0.5, 0.01), "epochs": 2, "batch_size": 12},
    ),
    "resnet8, dropout": (Resnet8(2, "none", 0.2), IMAGE, {"optimizer": OptimizerChoice("sgd", 0.01), "epochs": 1}),
    "mnist_cnn": (MnistCnn(), (1, 16, 15), {"optimizer": OptimizerChoice("sgd", 0.05, 0.9, 0.01)}),
    "mnist_cnn, tanh": (MnistCnn("tanh"), (3, 15, 18), {"optimizer": OptimizerChoice("adam", 0.01)}),
    "mlp": (Mlp((6,)), ROW, {"optimizer": OptimizerChoice("adamw", 0.01, weight_decay=0.1)}),
    "mlp, dropout": (Mlp((6, 5), "tanh", 0.3), ROW, {"augmentation": Augmentation(noise=0.1)}),
    "linear": (Linear(), IMAGE, {"augmentation": EVERY_KIND}),
}
DP: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "cnn": (Cnn((3, 5), (6,)), IMAGE, {"optimizer": OptimizerChoice("sgd", 0.1, 0.9)}),
    "cnn, everything": (
        Cnn((3, 4), (6,), norm="group", dropout=0.3),
        IMAGE,
        {"optimizer": OptimizerChoice("adam", 0.01), "schedule": Schedule("cosine"), "augmentation": EVERY_KIND},
    ),
    "cnn, mostly empty samples": (Cnn((3,), ()), IMAGE, {"batch_size": 1, "epochs": 1}),
    "resnet8": (Resnet8(2), IMAGE, {"epochs": 1}),
    "resnet8, no norm": (
        Resnet8(2, "none"),
        IMAGE,
        {"optimizer": OptimizerChoice("sgd", 0.1, 0.0, 0.1), "epochs": 1},
    ),
    "mnist_cnn": (MnistCnn("tanh"), (1, 16, 15), {}),
    "mlp": (Mlp((6,), dropout=0.2), ROW, {}),
    "linear": (Linear(), ROW, {"optimizer": OptimizerChoice("adamw", 0.01)}),
    "adaptive": (Mlp((6,)), ROW, {"defense": dataclasses.replace(PRIVATE, clipping="adaptive")}),
    "few steps": (Linear(), ROW, {"defense": dataclasses.replace(PRIVATE, max_epsilon=9.0)}),
}


def recipe(architecture: Any, shape: tuple[int, ...], **changes: Any) -> Recipe:
    task = Task("classification", 3, shape, (0.0, 1.0))
    return Recipe(architecture, task, **({"epochs": 3, "batch_size": 5} | changes))


def private(case: str) -> Recipe:
    architecture, shape, changes = DP[case]
    return recipe(architecture, shape, **{"defense": PRIVATE} | changes)


def some_pool(shape: tuple[int, ...], n: int = 40) -> Records:
    rng = np.random.default_rng(5)
    return Records(rng.random((n, *shape)).astype(np.float32), rng.integers(0, 3, n))


def some_parts(n: int = 40) -> list[Part]:
    rng = np.random.default_rng(6)
    return [Part(np.sort(rng.permutation(n)[:size]), 100 + seed) for seed, size in enumerate(SIZES)]


def ensemble(name: str) -> Ensemble:
    way: Ensemble = registry.load("ensembles", name)()
    return way


def trained(name: str, how: Recipe, parts: list[Part]) -> list[NDArray[np.float32]]:
    """The weights of each model, one after the other."""
    found = ensemble(name).train(how, some_pool(how.task.shape), parts, lambda share: None)
    return [np.concatenate([value.ravel() for value in weights.values()]) for weights in found]


def by_fit(how: Recipe, part: Part) -> NDArray[np.float32]:
    module = fit(how, some_pool(how.task.shape).take(part.records), part.seed).module
    return np.concatenate([value.numpy().ravel() for value in module.state_dict().values()])


def or_skip(name: str, how: Recipe) -> str:
    """Skips what the way does not do anywhere; one that is for a GPU alone still trains here, only slowly."""
    obstacles = [ensemble(name).obstacle(how, device) for device in ("cpu", "cuda")]
    if all(obstacles):
        pytest.skip(obstacles[0])
    return name


# The contract


def test_the_ways_are_found() -> None:
    assert set(NAMES) >= {"sequential", "channels_last", "bookkeeping", "vmapped"}
    assert all(isinstance(ensemble(name), Ensemble) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", PLAIN)
def test_the_models_are_those_of_training_one_by_one(name: str, case: str) -> None:
    architecture, shape, changes = PLAIN[case]
    how, parts = recipe(architecture, shape, **changes), some_parts()
    found = trained(or_skip(name, how), how, parts)
    for weights, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(weights, by_fit(how, part), rtol=0, atol=1e-5)


class Injected:
    """In the place of a subject's secret, what a reference draws from its seed."""

    digest = ""

    def __init__(self, seed: int) -> None:
        chance = Chance(seed)
        self.poisson_sample, self.normal, self._normals = chance.poisson_sample, chance.normal, chance.normals

    def fill(self, out: NDArray[np.float64], deviation: float) -> None:
        out[:] = self._normals(len(out)).astype(np.float64) * deviation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", DP)
def test_private_models_are_those_of_the_subjects_mechanism_with_the_same_chance(
    name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, parts = private(case), some_parts()
    found = trained(or_skip(name, how), how, parts)
    for weights, part in zip(found, parts, strict=True):
        monkeypatch.setattr(_run, "Secret", lambda seed=part.seed: Injected(seed))
        np.testing.assert_allclose(weights, by_fit(how, part), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", DP)
def test_private_models_differ_with_the_seed_and_repeat_with_it(case: str) -> None:
    how, (part, *_) = private(case), some_parts()
    (first,), (again,) = (trained("bookkeeping", how, [part]) for _ in range(2))
    (other,) = trained("bookkeeping", how, [dataclasses.replace(part, seed=part.seed + 1)])
    assert (first == again).all()
    assert not np.isclose(first, other).any()


@pytest.mark.parametrize("mode", ["auto", "bookkeeping", "hooks", "ghost", "functorch"])
def test_one_by_one_in_every_mode_of_the_subject(mode: Any) -> None:
    how = recipe(Cnn((3, 5), (6,)), IMAGE, defense=dataclasses.replace(PRIVATE, mode=mode))
    for one, other in zip(*(trained(name, how, some_parts()) for name in ("sequential", "bookkeeping")), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("defense", [None, PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("architecture", [Cnn((3,), ()), Mlp((4,))], ids=["cnn", "mlp"])
def test_weights_are_a_state_dict_and_progress_is_told(name: str, defense: Any, architecture: Any) -> None:
    how, pool, shares = recipe(architecture, IMAGE, defense=defense), some_pool(IMAGE), []
    x, chance = pool.x.copy(), torch.get_rng_state()
    found = ensemble(or_skip(name, how)).train(how, pool, some_parts(), shares.append)
    assert torch.equal(torch.get_rng_state(), chance)
    assert (pool.x == x).all()
    assert shares == sorted(shares)
    assert shares[0] < 1
    assert shares[-1] == pytest.approx(1.0)
    state = architecture.build(IMAGE, 3).state_dict()
    for weights in found:
        assert {key: value.shape for key, value in weights.items()} == {k: tuple(v.shape) for k, v in state.items()}
        assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in weights.values())
    assert not np.shares_memory(*(next(iter(weights.values())) for weights in found[:2]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("defense", [None, PRIVATE], ids=["plain", "private"])
def test_no_parts_no_models(name: str, defense: Any) -> None:
    how = recipe(Mlp((4,)), ROW, defense=defense)
    assert trained(or_skip(name, how), how, []) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("defense", [None, PRIVATE], ids=["plain", "private"])
def test_memory_grows_with_models_and_records(name: str, defense: Any) -> None:
    how = recipe(Mlp((4,)), ROW, defense=defense)
    memory = ensemble(or_skip(name, how)).memory
    assert 0 < memory(how, 100, 2) < memory(how, 100, 4)
    assert memory(how, 100, 2) < memory(how, 10_000, 2)


def test_memory_counts_parameters_and_activations_without_chance() -> None:
    chance = torch.get_rng_state()
    found = footprint(recipe(Cnn((4,), (5,)), (1, 8, 6)))
    assert torch.equal(torch.get_rng_state(), chance)
    assert found.parameters == (9 * 4 + 4) + (4 * 12 * 5 + 5) + (5 * 3 + 3)
    # The record, convolution, ReLU, pooling, flattened, dense, ReLU, answer.
    assert found.activations == 48 + 4 * 48 + 4 * 48 + 48 + 48 + 5 + 5 + 3
    assert found.patches == 48 * 9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("defense", [None, PRIVATE], ids=["plain", "private"])
def test_what_does_not_fit_is_refused(name: str, defense: Any) -> None:
    how = recipe(Mlp((4,)), ROW, defense=defense)
    way, pool = ensemble(or_skip(name, how)), some_pool(ROW)
    refused: list[tuple[Recipe, Records, Part]] = [
        (how, pool, Part(np.empty(0, np.int64), 1)),
        (how, some_pool((12,)), Part(np.arange(9), 1)),
        (how, Records(np.full_like(pool.x, np.nan), pool.y), Part(np.arange(9), 1)),
        (how, Records(pool.x, pool.y + 1), Part(np.arange(9), 1)),
    ]
    if defense is not None:
        refused.append((dataclasses.replace(how, batch_size=10), pool, Part(np.arange(9), 1)))
        careless = dataclasses.replace(defense, delta=0.2)
        refused.append((dataclasses.replace(how, defense=careless), pool, Part(np.arange(9), 1)))
    for case in refused:
        with pytest.raises(InputError):
            way.train(case[0], case[1], [case[2]], lambda share: None)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_diverges_stops(name: str) -> None:
    how = recipe(Mlp((4,)), ROW, optimizer=OptimizerChoice("sgd", 1e30))
    with pytest.raises(MidguardError, match=r"diverged.*optimizer\.lr"):
        trained(or_skip(name, how), how, some_parts())


# What can be trained


@pytest.mark.parametrize("architecture", registry.names("architectures"))
@pytest.mark.parametrize("defense", [None, PRIVATE], ids=["plain", "private"])
def test_every_architecture_has_a_way_on_the_processor(architecture: str, defense: Any) -> None:
    how = recipe(registry.load("architectures", architecture)(), IMAGE, defense=defense)
    assert [name for name in NAMES if not ensemble(name).obstacle(how, "cpu")]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A defense, or an architecture, that nobody has heard of."""

    def protect(self, setting: object) -> Any:
        raise AssertionError

    def build(self, shape: object, classes: object) -> Any:
        raise AssertionError


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_defense_is_refused(name: str) -> None:
    for architecture in (Mlp(), Cnn()):
        assert ensemble(name).obstacle(recipe(architecture, IMAGE, defense=Unknown()), "cpu")


def test_what_a_way_cannot_do_it_says() -> None:
    plain, dp = recipe(Cnn(), IMAGE), recipe(Cnn(), IMAGE, defense=PRIVATE)
    assert "defense" in ensemble("channels_last").obstacle(dp, "cpu")
    assert "dp_sgd" in BookKeeping().obstacle(plain, "cpu")
    assert "unknown" in BookKeeping().obstacle(recipe(Unknown(), IMAGE, defense=PRIVATE), "cpu")
    assert Sequential().obstacle(dp, "cpu") == ""
    vmapped = ensemble("vmapped")
    assert vmapped.obstacle(plain, "cuda") == ""
    assert "GPU" in vmapped.obstacle(plain, "cpu")
    assert "dropout" in vmapped.obstacle(recipe(Cnn(dropout=0.1), IMAGE), "cuda")
    assert "defense" in vmapped.obstacle(dp, "cuda")


ASK = """
import sys
from midguard.engine import registry
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.recipe import Recipe
from midguard.engine.subject import Task
task = Task("classification", 3, (1, 8, 8), (0.0, 1.0))
for name in registry.names("ensembles"):
    for architecture in (Cnn(), Mlp()):
        for defense in (None, DpSgd(noise_multiplier=1.0)):
            for device in ("cpu", "cuda"):
                registry.load("ensembles", name)().obstacle(Recipe(architecture, task, defense=defense), device)
assert "torch" not in sys.modules
"""

SUBJECT = """
import sys
import numpy as np
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.recipe import Recipe
from midguard.engine.subject import Task
from midguard.engine.target import Records
from midguard.engine.training import fit
task = Task("classification", 2, (3,), (0.0, 1.0))
recipe = Recipe(Mlp((2,)), task, epochs=1, batch_size=5, defense=DpSgd(noise_multiplier=1.0, delta=1e-3))
fit(recipe, Records(np.zeros((20, 3), np.float32), np.arange(20) % 2), 1)
found = [name for name in sys.modules if name.startswith("midguard.engine.ensembles")]
assert not found, found
"""


@pytest.mark.parametrize("code", [ASK, SUBJECT], ids=["obstacles import no torch", "no seeded chance for a subject"])
def test_what_is_imported(code: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("records", "defense"), [(50, DpSgd(target_epsilon=8.0, delta=1e-3)), (53, PRIVATE)])
def test_the_plan_is_the_subjects_own(records: int, defense: DpSgd) -> None:
    how = recipe(Linear(), ROW, defense=defense)
    (event,) = fit(how, some_pool(ROW, records), 1).events
    module = how.architecture.build(ROW, 3)
    steps = PrivateSteps(Work(how, module, records, 1), torch.optim.SGD(module.parameters()), "bookkeeping")
    assert steps._planned == event
