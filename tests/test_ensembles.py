"""Ways to train many models: the same models as one by one, whatever the way, and chance that only references have."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from midguard.engine import registry
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.defenses import _opacus
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.ensembles import Ensemble, Part
from midguard.engine.ensembles._books import Books
from midguard.engine.ensembles._chance import Chance
from midguard.engine.ensembles._layout import pooled_first
from midguard.engine.ensembles._memory import footprint
from midguard.engine.ensembles._one import Work
from midguard.engine.ensembles._private import planned
from midguard.engine.ensembles._slopes import Unformed
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
    "mlp": (Mlp((6,), dropout=0.2), ROW, {}),
    "linear": (Linear(), ROW, {"optimizer": OptimizerChoice("adamw", 0.01)}),
}


def recipe(architecture: Any, shape: tuple[int, ...], **changes: Any) -> Recipe:
    task = Task("classification", 3, shape, (0.0, 1.0))
    return Recipe(architecture, task, **({"epochs": 3, "batch_size": 5} | changes))


def private(case: str) -> Recipe:
    architecture, shape, changes = DP[case]
    return recipe(architecture, shape, defense=PRIVATE, **changes)


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
    """Serves Opacus' optimiser, which asks parameter by parameter, from one draw a step."""

    def __init__(self, seed: int, parameters: int) -> None:
        self._chance, self._parameters = Chance(seed), parameters
        self._left = np.empty(0, np.float32)
        self.poisson_sample = self._chance.poisson_sample

    def normals(self, n: int) -> NDArray[np.float64]:
        if not len(self._left):
            self._left = self._chance.normals(self._parameters)
        drawn, self._left = self._left[:n], self._left[n:]
        return drawn.astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", DP)
def test_private_models_are_those_of_the_subjects_mechanism_with_the_same_chance(
    name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, parts = private(case), some_parts()
    found = trained(or_skip(name, how), how, parts)
    for weights, part in zip(found, parts, strict=True):
        injected = Injected(part.seed, footprint(how).parameters)
        monkeypatch.setattr(_opacus, "normals", injected.normals)
        monkeypatch.setattr(_opacus, "poisson_sample", injected.poisson_sample)
        np.testing.assert_allclose(weights, by_fit(how, part), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", DP)
def test_private_models_differ_with_the_seed_and_repeat_with_it(case: str) -> None:
    how, (part, *_) = private(case), some_parts()
    (first,), (again,) = (trained("bookkeeping", how, [part]) for _ in range(2))
    (other,) = trained("bookkeeping", how, [dataclasses.replace(part, seed=part.seed + 1)])
    assert (first == again).all()
    assert not np.isclose(first, other).any()


@pytest.mark.parametrize("mode", ["hooks", "ghost", "functorch"])
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


# Less work, the same function


def test_pooling_before_the_relu_changes_nothing_but_the_order() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Cnn((3, 4), (5,)).build((1, 9, 8), 3)
        # Rounded, so that many windows hold ties and many are nowhere positive.
        x = torch.randint(0, 3, (20, 1, 9, 8)).float()
        for parameter in module.parameters():
            parameter.data = torch.randint_like(parameter, -2, 3)
    faster = pooled_first(module)
    names = [name for name, _ in faster.named_children()]
    assert names.index("pool1") < names.index("relu1")
    assert list(faster.state_dict()) == list(module.state_dict())
    gradients = []
    for network in (module, faster):
        answer = network(x)
        gradients.append(torch.autograd.grad((answer * torch.arange(3)).sum(), list(module.parameters())))
    assert torch.equal(module(x), faster(x))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_only_a_relu_before_a_max_pooling_is_moved() -> None:
    layers = nn.Sequential(nn.Tanh(), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten())
    assert [type(x) for x in pooled_first(layers)] == [type(x) for x in layers]
    linear = nn.Linear(2, 2)
    assert pooled_first(linear) is linear


# Book-keeping against gradients taken record by record


class Odd(nn.Module):
    """Convolutions of every kind that can be known record by record, with more parameters than places at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, (3, 2), stride=(1, 2), padding=(2, 1), bias=False)
        self.norm = nn.GroupNorm(1, 3)
        self.second = nn.Conv2d(3, 7, 3, stride=2)
        self.third = nn.Conv2d(7, 9, 2, padding=1, bias=False)
        self.fourth = nn.Conv2d(9, 8, (2, 3))
        self.plain = nn.Linear(8, 5, bias=False)
        self.output = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        h = torch.tanh(self.third(torch.tanh(self.second(h))))
        h = torch.tanh(self.fourth(h)).mean(dim=(2, 3))
        answer: torch.Tensor = self.output(self.plain(h))
        return answer


def one_by_one(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[list[torch.Tensor]]:
    """The gradient of each record by itself."""
    losses = [nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    return [list(torch.autograd.grad(loss, list(module.parameters()))) for loss in losses]


def clipped(gradients: list[list[torch.Tensor]], bound: float) -> list[torch.Tensor]:
    norms = [float(torch.cat([g.flatten() for g in own]).norm()) for own in gradients]
    shares = [min(1.0, bound / norm) for norm in norms]
    return [
        sum((s * g for s, g in zip(shares, own, strict=True)), torch.zeros(())) for own in zip(*gradients, strict=True)
    ]


def odd_batch() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Odd(), torch.randn(6, 3, 7, 8) * torch.arange(1, 7).view(6, 1, 1, 1), torch.tensor([0, 1, 2, 0, 1, 2])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "odd": Odd,
    "cnn": lambda: Cnn((3, 4), (5,), "group").build((3, 7, 8), 3),
    "resnet8": lambda: Resnet8(4).build((3, 7, 8), 3),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bound", [1e9, 0.5])
def test_the_clipped_sum_is_that_of_single_records(network: str, bound: float) -> None:
    _, x, y = odd_batch()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = NETWORKS[network]()
    expected = clipped(one_by_one(module, x, y), bound)
    found = Books(module, module, bound).sums(x, y)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_norms_are_had_with_and_without_forming_gradients() -> None:
    module, x, y = odd_batch()
    alone = one_by_one(module, x, y)
    books = Books(module, module, 1.0)
    slopes = books._slopes(x, y)
    assert {isinstance(s, Unformed) for s in slopes} == {True, False}
    found = torch.stack([s.squares() for s in slopes]).sum(dim=0)
    expected = torch.tensor([sum(float(g.square().sum()) for g in own) for own in alone])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_a_record_without_a_finite_gradient_counts_as_zero(broken: float) -> None:
    module, x, y = odd_batch()
    module.norm = nn.Identity()  # type: ignore[assignment]  # it would shrink the largest numbers again
    x[2] *= broken
    kept = torch.tensor([0, 1, 3, 4, 5])
    expected = clipped(one_by_one(module, x[kept], y[kept]), 1.0)
    found = Books(module, module, 1.0).sums(x, y)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 if broken != 1e30 else 1.0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, groups=2, padding=1),
        nn.Conv2d(2, 4, 3, dilation=2, padding=2),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.BatchNorm2d(2),
    ],
    ids=["groups", "dilation", "circular", "same", "batch norm"],
)
def test_layers_that_are_not_known_are_refused(layer: nn.Module) -> None:
    module = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    x, y = torch.rand(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])
    module(x)
    with pytest.raises(InputError, match="record by record"):
        Books(module, module, 1.0).sums(x, y)


def test_a_layer_that_is_used_twice_is_refused() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.Tanh(), layer)
    with pytest.raises(AssertionError, match="twice"):
        Books(module, module, 1.0).sums(torch.rand(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(("records", "defense"), [(50, DpSgd(target_epsilon=8.0, delta=1e-3)), (53, PRIVATE)])
def test_the_plan_is_the_subjects_own(records: int, defense: DpSgd) -> None:
    how = recipe(Linear(), ROW, defense=defense)
    (event,) = fit(how, some_pool(ROW, records), 1).events
    module = how.architecture.build(ROW, 3)
    assert planned(Work(how, module, records, 1), torch.optim.SGD(module.parameters())) == event
