"""Training: repeatable where it should be, never where it must not be; nothing that breaks a guarantee gets through."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.defenses import Defense, Mechanism, Setting
from midguard.engine.defenses._checks import check_module
from midguard.engine.defenses._opacus import Materialised
from midguard.engine.defenses._sums import Gradient, sums_by
from midguard.engine.defenses.dp_sgd import DpSgd, Way, steps_after
from midguard.engine.descent import Trained, fit
from midguard.engine.epochs import Epoch
from midguard.engine.errors import Exit, InputError, MidguardError
from midguard.engine.folder import check_folder
from midguard.engine.ledger import ENGINE_SAMPLER, NonPrivate, SampledGaussian, Sampler, read_ledger
from midguard.engine.recipe import Augmentation, OptimizerChoice, Recipe, Schedule, Split, load_recipe
from midguard.engine.splits import deal, relabelled
from midguard.engine.subject import Task, content_digest, load_module, load_records, load_subject
from midguard.engine.target import Exposure, Records
from midguard.engine.training import train
from midguard.engine.variation import vary

MODES: tuple[Way, ...] = ("bookkeeping", "ghost", "hooks", "functorch")
TASK = Task("classification", 3, (1, 4, 4), (0.0, 1.0))


def some_records(n: int = 90, seed: int = 0, task: Task = TASK) -> Records:
    """Three classes that a linear model tells apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, task.classes, n)
    x = rng.uniform(0, 0.5, (n, *task.shape))
    x[np.arange(n), 0, y, :] += 0.5
    return Records(x.astype(np.float32), y.astype(np.int64))


def plain(**changes: Any) -> Recipe:
    return dataclasses.replace(Recipe(Mlp((8,)), TASK, OptimizerChoice(lr=0.5), epochs=4, batch_size=16), **changes)


PRIVATE = DpSgd(noise_multiplier=1.0, delta=1e-4)


def weights(trained: Trained) -> NDArray[np.float32]:
    return np.concatenate([p.detach().numpy().ravel() for p in trained.module.parameters()])


# --- plain training --------------------------------------------------------------------------------------------------


def test_it_learns() -> None:
    trained = fit(plain(epochs=30), some_records(), 1)
    held_out = some_records(seed=1)
    predicted = trained.module(torch.tensor(held_out.x)).argmax(dim=1).numpy()
    assert (predicted == held_out.y).mean() > 0.95
    assert trained.epochs[-1].accuracy > 0.95
    assert trained.epochs[-1].loss < trained.epochs[0].loss
    assert trained.events == (NonPrivate("trained without a mechanism"),)
    assert not trained.module.training
    assert not any(p.requires_grad or p.grad is not None for p in trained.module.parameters())


@pytest.mark.parametrize("architecture", [Mlp((8,), dropout=0.3), Linear()])
def test_the_same_seed_gives_the_same_weights(architecture: Any) -> None:
    recipe = plain(architecture=architecture, augmentation=Augmentation(shift=1, flip=True, noise=0.1))
    one, same, other = (weights(fit(recipe, some_records(), seed)) for seed in (5, 5, 6))
    assert (one == same).all()
    assert not np.allclose(one, other)


@pytest.mark.parametrize("defense", [None, PRIVATE])
def test_the_global_generators_are_left_as_they_were(defense: Defense | None) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    fit(plain(architecture=Mlp((8,), dropout=0.3), defense=defense), some_records(), 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_the_callers_records_are_not_changed() -> None:
    records = some_records()
    x, y = records.x.copy(), records.y.copy()
    fit(plain(augmentation=Augmentation(shift=1, noise=0.5)), records, 1)
    assert (records.x == x).all()
    assert (records.y == y).all()


def test_one_plain_step_is_gradient_descent() -> None:
    """Full batch, one epoch, softmax regression: the step is what calculus says."""
    recipe = plain(architecture=Linear(), optimizer=OptimizerChoice(lr=0.7, weight_decay=0.1), epochs=1, batch_size=90)
    records = some_records()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        start = Linear().build(TASK.shape, TASK.classes)
    w, b = (p.detach().double().numpy() for p in start.parameters())
    x = records.x.reshape(90, -1).astype(np.float64)
    logits = x @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = (p - np.eye(3)[records.y]) / 90
    expected = np.concatenate([(w - 0.7 * (error.T @ x + 0.1 * w)).ravel(), b - 0.7 * (error.sum(axis=0) + 0.1 * b)])
    assert np.allclose(weights(fit(recipe, records, 11)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_makes_weights_smaller(name: Literal["sgd", "adam", "adamw"]) -> None:
    sizes = [
        np.linalg.norm(weights(fit(plain(optimizer=OptimizerChoice(name, 0.02, 0, decay)), some_records(), 1)))
        for decay in (0.0, 1.0)
    ]
    assert sizes[1] < sizes[0]


def test_progress_tells_every_epoch() -> None:
    told: list[tuple[Epoch, int]] = []
    trained = fit(plain(), some_records(), 1, lambda epoch, total: told.append((epoch, total)))
    assert [(e.number, total) for e, total in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert tuple(e for e, _ in told) == trained.epochs
    assert all(e.epsilon is None for e in trained.epochs)


def test_a_training_that_diverges_stops() -> None:
    with pytest.raises(MidguardError, match=r"diverged in epoch .*lr \(now 1e\+30\)"):
        fit(plain(optimizer=OptimizerChoice(lr=1e30)), some_records(), 1)


@pytest.mark.parametrize(
    ("records", "match"),
    [
        (Records(np.zeros((0, 1, 4, 4), np.float32), np.zeros(0, np.int64)), "no records"),
        (Records(np.zeros((2, 1, 5, 4), np.float32), np.zeros(2, np.int64)), "shape"),
        (Records(np.zeros((2, 1, 4, 4), np.float32), np.array([0, 3])), "labels outside"),
        (Records(np.zeros((2, 1, 4, 4), np.float32), np.array([-1, 0])), "labels outside"),
        (Records(np.full((2, 1, 4, 4), np.nan, np.float32), np.array([0, 1])), "NaN"),
    ],
)
def test_records_that_are_not_the_tasks_are_refused(records: Records, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fit(plain(), records, 1)


def test_an_architecture_that_cannot_read_the_records_is_refused() -> None:
    task = Task("classification", 3, (16,), (0, 1))
    records = Records(np.zeros((4, 16), np.float32), np.zeros(4, np.int64))
    with pytest.raises(InputError, match="images"):
        fit(plain(architecture=Cnn(), task=task), records, 1)


# --- schedule and augmentation ---------------------------------------------------------------------------------------


def test_schedules() -> None:
    constant = [Schedule("constant", warmup=2).share(e, 6) for e in range(1, 7)]
    assert constant == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    steps = [Schedule("step", every=2, factor=0.5).share(e, 6) for e in range(1, 7)]
    assert steps == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for epoch in range(1, 7):
        assert Schedule("cosine").share(epoch, 6) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_the_schedule_reaches_the_optimiser() -> None:
    """A rate of nearly nothing after the first epoch: the weights stay where they are."""
    stopped = Schedule("step", every=1, factor=1e-12)
    one = fit(plain(epochs=1), some_records(), 1)
    four = fit(plain(epochs=4, schedule=stopped), some_records(), 1)
    assert np.allclose(weights(one), weights(four), atol=1e-6)


def test_shift_moves_each_image_on_its_own() -> None:
    torch.manual_seed(0)
    x = torch.zeros(400, 2, 5, 5)
    x[:, :, 2, 2] = 1.0
    moved = vary(x, Augmentation(shift=1), (0.0, 1.0))
    assert moved.shape == x.shape
    assert (moved.flatten(1).sum(dim=1) == 2).all()
    assert (moved[:, 0] == moved[:, 1]).all(), "channels move together"
    places = {tuple(map(int, torch.nonzero(image[0])[0])) for image in moved}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}


def test_what_moves_in_is_the_lower_bound() -> None:
    torch.manual_seed(0)
    moved = vary(torch.full((200, 1, 3, 3), 0.5), Augmentation(shift=2), (-1.0, 1.0))
    assert set(moved.unique().tolist()) == {-1.0, 0.5}


def test_flip_mirrors_about_half() -> None:
    torch.manual_seed(0)
    x = torch.arange(4.0).expand(1000, 1, 1, 4).clone()
    flipped = vary(x, Augmentation(flip=True), (0.0, 3.0))[:, 0, 0, 0] == 3
    assert stats.binomtest(int(flipped.sum()), 1000).pvalue > 1e-6


def test_noise_stays_in_the_range() -> None:
    torch.manual_seed(0)
    varied = vary(torch.full((50, 1, 10, 10), 0.5), Augmentation(noise=0.1), (0.0, 1.0))
    assert float(varied.std()) == pytest.approx(0.1, rel=0.1)
    far = vary(torch.full((50, 1, 10, 10), 0.5), Augmentation(noise=9.0), (0.0, 1.0))
    assert (float(far.min()), float(far.max())) == (0.0, 1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: OptimizerChoice(lr=0),
        lambda: OptimizerChoice(lr=math.nan),
        lambda: OptimizerChoice(momentum=1.0),
        lambda: OptimizerChoice("adam", momentum=0.9),
        lambda: OptimizerChoice(weight_decay=-1),
        lambda: OptimizerChoice("lbfgs"),  # type: ignore[arg-type]
        lambda: Schedule("linear"),  # type: ignore[arg-type]
        lambda: Schedule(warmup=-1),
        lambda: Schedule(every=0),
        lambda: Schedule(factor=0),
        lambda: Augmentation(shift=-1),
        lambda: Augmentation(noise=math.nan),
        lambda: Split(members=0),
        lambda: Split(members=0.5, nonmembers=0.4, auxiliary=0.2),
        lambda: Split(nonmembers=math.nan),
        lambda: Split(seed=-1),
        lambda: plain(epochs=0),
        lambda: plain(batch_size=0),
        lambda: plain(seed=-1),
        lambda: plain(task=Task("classification", 3, (16,), (0, 1)), augmentation=Augmentation(shift=1)),
        DpSgd,
        lambda: DpSgd(8.0, 1.0),
        lambda: DpSgd(-1.0),
        lambda: DpSgd(math.inf),
        lambda: DpSgd(noise_multiplier=0.0),
        lambda: DpSgd(8.0, delta=0.0),
        lambda: DpSgd(8.0, clipping_norm=math.inf),
        lambda: DpSgd(8.0, mode="fast"),  # type: ignore[arg-type]
        lambda: DpSgd(8.0, sampling="shuffle"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_cannot_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        build()


# --- DP-SGD: what it does --------------------------------------------------------------------------------------------


def setting(module: nn.Module, records: int = 200, batch_size: int = 20, epochs: int = 1, lr: float = 1.0) -> Setting:
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    example = torch.rand(6, *TASK.shape, generator=torch.Generator().manual_seed(0))
    return Setting(module.train(), optimizer, example, records, batch_size, epochs)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mlp((8,), activation="tanh").build(TASK.shape, TASK.classes).train()


def tensors(n: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    records = some_records(n, seed)
    return torch.tensor(records.x), torch.tensor(records.y)


def clipped_sum(
    mode: Way, x: torch.Tensor, y: torch.Tensor, bound: float = 0.1, module: nn.Module | None = None
) -> Any:
    module = module or network()
    sums, totals = sums_by(mode, module), Gradient(list(module.parameters()))
    if len(x):
        sums.add(x, y, bound, totals.parts)
    sums.release()
    return totals.flat


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_one_record_moves_the_sum_by_the_clipping_norm_at_most(mode: Way, size: float) -> None:
    """A recorded step, with and without one record whose gradient may be huge."""
    x, y = tensors()
    canary = torch.cat([x, size * torch.ones(1, *TASK.shape)]), torch.cat([y, torch.tensor([2])])
    moved = float((clipped_sum(mode, *canary) - clipped_sum(mode, x, y)).norm())
    assert moved <= 0.1 * (1 + 1e-4)
    if size >= 1:
        assert moved > 0.09, "its gradient is larger than the bound, so the bound is what it moves"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bound", [0.01, 0.5, 100.0])
def test_the_clipped_sum_is_that_of_single_records(mode: Way, bound: float) -> None:
    x, y = tensors()
    module, expected = network(), 0.0
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        expected = expected + gradient * min(1.0, bound / float(gradient.norm()))
    assert torch.allclose(clipped_sum(mode, x, y, bound), torch.as_tensor(expected), rtol=1e-3, atol=1e-4 * bound)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e38])
def test_a_record_without_a_finite_gradient_counts_as_zero(mode: Way, broken: float) -> None:
    x, y = tensors()
    with_it = torch.cat([x[:5], torch.full((1, *TASK.shape), broken), x[5:]]), torch.cat([y[:5], y[:1], y[5:]])
    difference = clipped_sum(mode, *with_it) - clipped_sum(mode, x, y)
    assert difference.isfinite().all()
    assert float(difference.norm()) <= 0.1 * (1 + 1e-4)
    if not math.isfinite(broken):
        assert float(difference.norm()) < 1e-5


def stepped(
    mechanism: Mechanism, at: Setting, x: torch.Tensor, y: torch.Tensor
) -> list[tuple[int, NDArray[np.float64]]]:
    """Each step's batch size, and what it did to the weights."""
    told = []
    for index in mechanism.batches():
        before = torch.cat([p.detach().double().flatten() for p in at.module.parameters()])
        mechanism.step(x[index], y[index])
        after = torch.cat([p.detach().double().flatten() for p in at.module.parameters()])
        told.append((len(index), (after - before).numpy()))
    return told


@pytest.mark.parametrize("mode", ["auto", "hooks", "ghost"])
def test_the_noise_is_as_large_as_the_ledger_says(mode: Any) -> None:
    """Steps on empty samples are noise alone. Two-sided chi-square and correlation tests, each at 1e-6."""
    noise, bound, n = 1.7, 0.3, 40
    at = setting(Mlp((64,)).build(TASK.shape, TASK.classes), records=n, batch_size=1, epochs=8)
    mechanism = DpSgd(noise_multiplier=noise, delta=1e-4, clipping_norm=bound, mode=mode).protect(at)
    x, y = tensors(n)
    told = [step for _ in range(8) for step in stepped(mechanism, at, x, y)]
    alone = np.stack([delta for size, delta in told if size == 0])  # lr = 1, expected records a step = 1
    claimed = noise * bound
    assert alone.size > 50_000
    spread = float((alone**2).sum()) / claimed**2
    assert 5e-7 < stats.chi2.cdf(spread, alone.size) < 1 - 5e-7
    assert abs(float(alone.mean())) * math.sqrt(alone.size) / claimed < 4.9
    following = float((alone[1:] * alone[:-1]).sum()) / claimed**2 / math.sqrt(alone[1:].size)
    assert abs(following) < 4.9, "the noise of one step tells nothing of the next"
    (event,) = mechanism.finish()
    assert isinstance(event, SampledGaussian)
    assert (event.noise_multiplier, event.clipping_norm, event.steps) == (noise, bound, len(told))


def test_the_noised_sum_is_divided_by_the_expected_number_of_records() -> None:
    """Next to no noise: the step is the clipped sum over q·n, whatever the size of the sample."""
    at = setting(network(), records=20, batch_size=7)
    x, y = tensors(20)
    mechanism = DpSgd(noise_multiplier=1e-6, delta=1e-4, clipping_norm=0.1).protect(at)
    index = next(iter(mechanism.batches()))
    expected = clipped_sum("hooks", x[index], y[index]) / 7
    before = torch.cat([p.detach().flatten().clone() for p in at.module.parameters()])
    mechanism.step(x[index], y[index])
    after = torch.cat([p.detach().flatten() for p in at.module.parameters()])
    assert torch.allclose(before - after, expected, atol=1e-6)


def test_samples_are_poisson() -> None:
    """Sizes vary as n q (1 - q), each record enters Bin(T, q) times, epochs have no pattern. Each test at 1e-6."""
    n, batch, epochs = 200, 20, 100
    x, y = tensors(n)
    at = setting(network(), records=n, batch_size=batch, epochs=epochs)
    mechanism = PRIVATE.protect(at)
    batches: list[NDArray[np.int64]] = []
    seen = np.zeros((epochs, n))
    for epoch in range(epochs):
        for index in mechanism.batches():
            batches.append(index.numpy())
            seen[epoch, index.numpy()] += 1
            mechanism.step(x[index], y[index])
    q, steps = batch / n, len(batches)
    assert steps == epochs * n // batch
    sizes = np.array([len(b) for b in batches])
    dispersion = float(((sizes - n * q) ** 2).sum() / (n * q * (1 - q)))
    assert 5e-7 < stats.chi2.cdf(dispersion, steps) < 1 - 5e-7
    often = float(((seen.sum(axis=0) - steps * q) ** 2).sum() / (steps * q * (1 - q)))
    assert 5e-7 < stats.chi2.cdf(often, n) < 1 - 5e-7
    never = int((seen == 0).sum())
    assert stats.binomtest(never, seen.size, (1 - q) ** (n // batch)).pvalue > 1e-6, "a shuffle would leave nobody out"


def test_the_recipes_seed_does_not_repeat_the_noise() -> None:
    one, same = (weights(fit(plain(defense=PRIVATE), some_records(), 5)) for _ in range(2))
    assert np.isfinite(one).all()
    assert not np.isclose(one, same, atol=1e-7).any()


def test_the_recipes_seed_does_not_repeat_the_samples() -> None:
    def drawn() -> list[list[int]]:
        mechanism, told = PRIVATE.protect(setting(network())), []
        torch.default_generator.manual_seed(5)
        for index in mechanism.batches():
            told.append(index.tolist())
            mechanism.step(x[index], y[index])
        return told

    x, y = tensors(200)
    with torch.random.fork_rng(devices=[]):
        assert drawn() != drawn()


@pytest.mark.parametrize("mode", ["auto", *MODES])
@pytest.mark.parametrize("architecture", [Mlp((8,), dropout=0.2), Linear(), Cnn((4,), (8,), norm="group"), Resnet8(4)])
def test_every_architecture_trains_in_every_mode(mode: Any, architecture: Any) -> None:
    defense = DpSgd(noise_multiplier=0.8, delta=1e-4, mode=mode)
    trained = fit(plain(architecture=architecture, defense=defense, epochs=1, batch_size=30), some_records(), 1)
    (event,) = trained.events
    assert event == SampledGaussian(30 / 90, 0.8, 3, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
    assert not any(
        hasattr(p, name) for p in trained.module.parameters() for name in ("grad_sample", "summed_grad", "_norm_sample")
    )
    assert not any(module._forward_hooks or module._backward_hooks for module in trained.module.modules())


def test_private_training_learns_with_little_noise() -> None:
    defense = DpSgd(noise_multiplier=0.3, delta=1e-4)
    trained = fit(plain(defense=defense, epochs=30, batch_size=30), some_records(), 1)
    held_out = some_records(seed=1)
    predicted = trained.module(torch.tensor(held_out.x)).argmax(dim=1).numpy()
    assert (predicted == held_out.y).mean() > 0.9


def test_the_ledger_has_the_exact_sampling_probability() -> None:
    """49 records in batches of 1: a rounded expected batch size would be 0."""
    trained = fit(plain(defense=PRIVATE, epochs=1, batch_size=1), some_records(49), 1)
    (event,) = trained.events
    assert isinstance(event, SampledGaussian)
    assert event.sampling_probability == 1 / 49
    assert event.steps == 49


def test_epsilon_so_far_rises_to_the_target() -> None:
    defense = DpSgd(target_epsilon=3.0, delta=1e-4)
    trained = fit(plain(defense=defense, epochs=30, batch_size=30), some_records(), 1)
    so_far = [e.epsilon for e in trained.epochs if e.epsilon is not None]
    assert len(so_far) == 30
    assert so_far == sorted(so_far)
    assert 0 < so_far[0] < 2
    assert 2.9 < so_far[-1] <= 3.02


def test_steps_follow_the_records() -> None:
    at = setting(network(), records=607, batch_size=64, epochs=60)
    assert steps_after(at, 60) == 569
    assert steps_after(setting(network(), records=5, batch_size=5), 1) == 1
    trained = fit(plain(defense=PRIVATE, epochs=7, batch_size=40), some_records(90), 1)
    (event,) = trained.events
    assert isinstance(event, SampledGaussian)
    assert event.steps == round(7 * 90 / 40)


# --- DP-SGD: what it refuses -----------------------------------------------------------------------------------------


class LessBatchMean(nn.Module):
    """Takes the mean over the batch away: Opacus' validator lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.output(x - x.mean(dim=0))


class OverBatchSize(LessBatchMean):
    """Divides by the number of records in the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(x.flatten(1) / len(x))


class RunningMean(LessBatchMean):
    """Remembers the records in a buffer, and does nothing with it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()
        self.inner.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        self.inner.mean = 0.9 * self.inner.mean + 0.1 * x.detach().mean(dim=0)
        return self.output(x)


class _Mixed(torch.autograd.Function):
    """Answers each record by itself, and sends every record's gradient back into all."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] + gradients[0].sum(dim=0)


class MixedGradients(LessBatchMean):
    """One record's gradient holds the others'."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(_Mixed.apply(self.hidden(x.flatten(1))))


class Tied(LessBatchMean):
    """Uses one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.twice(self.twice(x.flatten(1)).tanh()))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.output = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(x[:, 0])[0][:, -1])


def normed(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), layer, nn.Linear(8, 3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("module", "match"),
    [
        (lambda: normed(nn.BatchNorm1d(8)), r"layer '2' \(BatchNorm1d\).*[Gg]roup"),
        (lambda: normed(nn.BatchNorm1d(8, affine=False)), r"layer '2'"),
        (Recurrent, "DPLSTM"),
        (LessBatchMean, "depends on the other records"),
        (OverBatchSize, "depends on the other records"),
        (RunningMean, "into buffers, without noise: inner.mean"),
        (MixedGradients, "not those of the module taken record by record"),
    ],
    ids=["batch norm", "batch norm without weights", "lstm", "batch mean", "batch size", "buffer", "mixed gradients"],
)
def test_modules_that_break_the_guarantee_are_refused(mode: Any, module: Callable[[], nn.Module], match: str) -> None:
    with pytest.raises(InputError, match=match) as refused:
        DpSgd(noise_multiplier=1.0, delta=1e-4, mode=mode).protect(setting(module()))
    assert refused.value.exit_code is Exit.BAD_INPUT
    assert refused.value.problems[0].hint


def test_a_layer_that_is_used_twice_is_right_or_refused() -> None:
    check_module(setting(Tied()), "hooks")
    with pytest.raises(InputError, match=r"functorch|tying"):
        check_module(setting(Tied()), "ghost")


@pytest.mark.parametrize("module", [lambda: normed(nn.GroupNorm(2, 8)), lambda: normed(nn.Dropout(0.5)), network])
def test_modules_that_keep_records_apart_are_accepted(module: Callable[[], nn.Module]) -> None:
    at = setting(module())
    before = [p.detach().clone() for p in at.module.parameters()]
    check_module(at, "hooks")
    assert all(torch.equal(p, b) for p, b in zip(at.module.parameters(), before, strict=True)), "the probe is a copy"
    assert not any(hasattr(p, "grad_sample") for p in at.module.parameters())


def test_an_unclipped_criterion_in_ghost_mode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus takes such a step and accounts for it as usual."""
    monkeypatch.setattr("midguard.engine.defenses._opacus.factors_for", lambda norms, bound: torch.ones_like(norms))
    with pytest.raises(InputError, match=r"mode 'ghost'.*not bounded"):
        check_module(setting(network()), "ghost")


def test_parameters_outside_the_private_optimiser_are_refused() -> None:
    module = network()
    at = setting(module)
    inside = torch.optim.SGD(list(module.parameters())[:2], lr=1.0)
    with pytest.raises(InputError, match=r"outside the private optimiser: output.weight, output.bias"):
        PRIVATE.protect(dataclasses.replace(at, optimizer=inside))
    for p in list(module.parameters())[2:]:
        p.requires_grad_(False)
    PRIVATE.protect(dataclasses.replace(at, optimizer=inside)).finish()
    foreign = torch.optim.SGD([*list(module.parameters())[:2], nn.Parameter(torch.zeros(3))], lr=1.0)
    with pytest.raises(InputError, match="parameters that the module does not train"):
        PRIVATE.protect(dataclasses.replace(at, optimizer=foreign))


@pytest.mark.parametrize(
    ("records", "defense", "match"),
    [
        (90, DpSgd(8.0, delta=1 / 90), "not below 1/90"),
        (9, PRIVATE, "batch_size 16 is larger than the 9 records"),
        (90, DpSgd(target_epsilon=1e-9, delta=1e-4), "no noise multiplier"),
    ],
)
def test_settings_that_guarantee_nothing_are_refused(records: int, defense: DpSgd, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fit(plain(defense=defense), some_records(records), 1)


def test_only_fresh_samples_are_stepped_on() -> None:
    """A shuffled batch, one sample used twice, a sample cut short: each would cost another ε than is accounted."""
    x, y = tensors(200)
    mechanism = PRIVATE.protect(setting(network()))
    with pytest.raises(MidguardError, match="no fresh Poisson sample"):
        mechanism.step(x[:20], y[:20])
    batches = mechanism.batches()
    index = next(batches)
    mechanism.step(x[index], y[index])
    with pytest.raises(MidguardError, match="no fresh Poisson sample"):
        mechanism.step(x[index], y[index])
    index = next(batches)
    with pytest.raises(MidguardError, match="no fresh Poisson sample"):
        mechanism.step(x[index][1:], y[index][1:])
    with pytest.raises(MidguardError, match="left out"):
        next(batches)
    (event,) = mechanism.finish()
    assert isinstance(event, SampledGaussian)
    assert event.steps == 1, "the ledger has the steps that were taken"


def test_gradients_are_not_accumulated() -> None:
    x, y = tensors()
    hooks = Materialised(network(), functorch=False)
    nn.functional.cross_entropy(hooks._wrapped(x), y).backward()
    with pytest.raises(ValueError, match="accumulation"):
        nn.functional.cross_entropy(hooks._wrapped(x), y).backward()


def test_buffers_that_change_late_are_found() -> None:
    module = network()
    module.register_buffer("count", torch.zeros(1))
    mechanism = PRIVATE.protect(setting(module))
    module.count += 1
    with pytest.raises(MidguardError, match="into buffers, without noise: count"):
        mechanism.finish()


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPE = """\
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: digits, version: "1"}
spec:
  architecture: {name: mlp, hidden: [16]}
  task: {kind: classification, classes: 10, input: [1, 8, 8], range: [0, 1]}
  data:
    source: builtin:digits
    label_noise: 0.2
    split: {members: 0.3, nonmembers: 0.3, auxiliary: 0.2, seed: 7}
  optimizer: {name: sgd, lr: 1}
  schedule: {name: cosine, warmup: 1}
  epochs: 2
  batch_size: 64
  seed: 1
  augmentation: {shift: 1}
  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1}
  release: {exposes: probabilities, top: 3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes the recipe with one piece of text replaced."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in RECIPE
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace(old, new))
        return path

    return write


def test_a_recipe_is_read_as_it_was_written(recipe: Callable[..., Path]) -> None:
    path = recipe()
    loaded = load_recipe(path)
    assert loaded.architecture == Mlp((16,))
    assert loaded.task == Task("classification", 10, (1, 8, 8), (0.0, 1.0))
    assert loaded.optimizer == OptimizerChoice("sgd", 1.0)
    assert isinstance(loaded.optimizer.lr, float)
    assert loaded.schedule == Schedule("cosine", warmup=1)
    assert (loaded.epochs, loaded.batch_size, loaded.seed) == (2, 64, 1)
    assert loaded.augmentation == Augmentation(shift=1)
    assert loaded.defense == DpSgd(noise_multiplier=1.1)
    assert (loaded.release.exposes, loaded.release.top) == (Exposure.PROBABILITIES, 3)
    assert (loaded.name, loaded.version, loaded.file, loaded.text) == ("digits", "1", path, RECIPE)
    assert loaded.data is not None
    assert loaded.data.split == Split(0.3, 0.3, 0.2, seed=7)
    twin = dataclasses.replace(loaded, defense=None, epochs=1, optimizer=OptimizerChoice("adam", 0.01))
    assert twin.defense is None


def test_what_is_left_out_has_a_default(recipe: Callable[..., Path]) -> None:
    middle = RECIPE[RECIPE.index("  optimizer") : RECIPE.index("  release")]
    loaded = load_recipe(recipe(middle, ""))
    assert (loaded.optimizer, loaded.schedule, loaded.defense) == (OptimizerChoice(), Schedule(), None)


@pytest.mark.parametrize(
    ("old", "new", "place", "match"),
    [
        ("kind: Recipe", "kind: Subject", "2:7", "Recipe"),
        ("epochs: 2", "epochs: 0", "13:11", "0"),
        ("epochs: 2", "epochs: two", "13:11", "two"),
        ("epochs: 2", "epohcs: 2", "13:3", "epochs"),
        ("seed: 1\n", "seed: -1\n", "15:9", "-1"),
        ("name: sgd", "name: sdg", "11:14", "sgd"),
        ("lr: 1", "lr: fast", "11:30", "fast"),
        ("lr: 1", "lr: 0", "11:14", "lr=0"),
        ("lr: 1", "lr: 1, beta: 2", "11:33", "beta"),
        ("name: mlp", "name: mpl", "5:24", "mlp"),
        ("name: dp_sgd", "name: dp_sdg", "17:19", "dp_sgd"),
        ("noise_multiplier: 1.1", "target_epsilon: 8, noise_multiplier: 1.1", "17:12", "one of the two"),
        ("clipping_norm: 1", "clipping_norm: 1, sampling: shuffle", "17:12", "ten times"),
        ("clipping_norm: 1", "clipping_norm: 1, accumulation: 4", "17:83", "accumulation"),
        ("clipping_norm: 1", "clipping_norm: 1, mode: fast", "17:12", "mode"),
        ("members: 0.3", "members: 0.9", "10:12", "add up to"),
        ("label_noise: 0.2", "label_noise: 1.5", "9:18", "1.5"),
        ("source: builtin:digits", "source: builtin:digits\n    members: builtin:digits", "8:5", "one of the two"),
        ("    source: builtin:digits\n", "", "8:5", "one of the two"),
        ("source: builtin:digits", "source: {file: missing.npz}", "8:20", "no file"),
        ("exposes: probabilities", "exposes: everything", "18:22", "everything"),
        ("input: [1, 8, 8]", "input: [64]", "5:3", "for images"),
        ("  release: {exposes: probabilities, top: 3}\n", "", "5:3", "release"),
    ],
)
def test_a_wrong_recipe_says_where(recipe: Callable[..., Path], old: str, new: str, place: str, match: str) -> None:
    path = recipe(old, new)
    with pytest.raises(InputError, match=match) as refused:
        load_recipe(path)
    found = {f"{p.where.line}:{p.where.column}" for p in refused.value.problems if p.where}
    assert place in found, str(refused.value)


def test_every_problem_is_told_at_once(recipe: Callable[..., Path]) -> None:
    path = recipe()
    path.write_text(RECIPE.replace("epochs: 2", "epochs: 0").replace("mlp", "mpl").replace("shift: 1", "shift: -1"))
    with pytest.raises(InputError) as refused:
        load_recipe(path)
    assert len(refused.value.problems) == 3


def test_a_twin_needs_no_data(recipe: Callable[..., Path]) -> None:
    path = recipe("source: builtin:digits", "source: {file: elsewhere.npz}")
    with pytest.raises(InputError, match="no file"):
        load_recipe(path)
    loaded = load_recipe(path, data=False)
    assert loaded.data is None
    assert loaded.architecture == Mlp((16,))


# --- splits ----------------------------------------------------------------------------------------------------------


def test_the_source_is_dealt_out(recipe: Callable[..., Path]) -> None:
    from sklearn.datasets import load_digits

    loaded = load_recipe(recipe())
    assert loaded.data is not None
    dealt = deal(loaded.data, loaded.task)
    parts = dealt.parts()
    assert {name: len(part) for name, part in parts.items()} == pytest.approx(
        {"members": 539, "nonmembers": 539, "auxiliary": 359}, abs=6
    )
    true = {row.tobytes(): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    rows = [(x, y) for part in parts.values() for x, y in zip(part.x, part.y, strict=True)]
    keys = [np.round(x.astype(np.float64).ravel() * 16).tobytes() for x, _ in rows]
    assert len(set(keys)) == len(keys), "the parts are disjoint"
    wrong = np.array([true[key] != y for key, (_, y) in zip(keys, rows, strict=True)])
    assert wrong.mean() == pytest.approx(0.2, abs=0.03)
    shares = [np.bincount(part.y, minlength=10) / len(part) for part in parts.values()]
    assert np.allclose(shares[0], shares[1], atol=0.01), "stratified"
    again = deal(loaded.data, loaded.task)
    assert content_digest(again.members) == content_digest(dealt.members)
    other = dataclasses.replace(loaded.data, split=dataclasses.replace(loaded.data.split, seed=8))
    assert content_digest(deal(other, loaded.task).members) != content_digest(dealt.members)
    loose = dataclasses.replace(loaded.data, split=Split(0.5, 0.5, 0.0, stratified=False))
    halves = deal(loose, loaded.task)
    assert halves.auxiliary is None
    assert halves.nonmembers is not None
    assert len(halves.members) + len(halves.nonmembers) == 1797


def test_exactly_the_share_of_labels_is_replaced_by_another() -> None:
    records = some_records(100)
    noisy = relabelled(records, 0.37, 3, np.random.default_rng(0))
    assert int((noisy.y != records.y).sum()) == 37
    assert set(noisy.y) <= {0, 1, 2}


def write_parts(tmp_path: Path, **parts: Records) -> Path:
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    lines = "\n".join(f"    {name}: {{file: {name}.npz}}" for name in parts)
    start, end = RECIPE.index("    source"), RECIPE.index("  optimizer")
    text = RECIPE[:start] + lines + "\n" + RECIPE[end:]
    path = tmp_path / "recipe.yaml"
    path.write_text(
        text.replace("classes: 10, input: [1, 8, 8]", "classes: 3, input: [1, 4, 4]").replace("top: 3", "top: 2")
    )
    return path


def test_sets_that_exist_are_taken_as_they_are(tmp_path: Path) -> None:
    members, nonmembers = some_records(), some_records(seed=1)
    loaded = load_recipe(write_parts(tmp_path, members=members, nonmembers=nonmembers))
    assert loaded.data is not None
    dealt = deal(loaded.data, loaded.task)
    assert content_digest(dealt.members) == content_digest(members)
    assert dealt.nonmembers is not None
    assert dealt.auxiliary is None


def test_sets_that_overlap_are_refused(tmp_path: Path) -> None:
    members = some_records()
    other = Records(np.concatenate([some_records(seed=1).x, members.x[:2]]), np.concatenate([members.y, members.y[:2]]))
    loaded = load_recipe(write_parts(tmp_path, members=members, nonmembers=other))
    assert loaded.data is not None
    with pytest.raises(InputError, match="2 records are both among the members and the nonmembers"):
        deal(loaded.data, loaded.task)


def test_copies_do_not_end_on_both_sides(tmp_path: Path) -> None:
    records = some_records(40)
    twice = Records(np.concatenate([records.x, records.x]), np.concatenate([records.y, records.y]))
    path = write_parts(tmp_path, members=twice)
    path.write_text(path.read_text().replace("    members: {file", "    source: {file"))
    loaded = load_recipe(path)
    assert loaded.data is not None
    parts = deal(dataclasses.replace(loaded.data, split=Split(0.5, 0.5, 0.0)), loaded.task).parts()
    assert sum(len(part) for part in parts.values()) == 40


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    path = write_parts(tmp_path, members=some_records())
    path.write_text(path.read_text().replace("{file: members.npz}", f"{{file: members.npz, sha256: '{'0' * 64}'}}"))
    loaded = load_recipe(path)
    assert loaded.data is not None
    with pytest.raises(InputError, match="not what it was"):
        deal(loaded.data, loaded.task)


# --- the folder ------------------------------------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_training_leaves_what_a_check_needs(recipe: Callable[..., Path], tmp_path: Path) -> None:
    told: list[Epoch] = []
    model = train(recipe(), tmp_path / "out", lambda epoch, _: told.append(epoch))
    folder = model.parent
    parts = {"members.npz", "nonmembers.npz", "auxiliary.npz"}
    assert names(folder) == {"model.pt", "model.yaml", "ledger.json", "recipe.yaml", "history.json"} | parts
    assert names(tmp_path) == {"out", "recipe.yaml"}, "nothing is left beside it"
    assert (folder / "recipe.yaml").read_text() == RECIPE
    subject = load_subject(model)
    records = load_records(subject)
    load_module(subject)
    assert records.members is not None
    assert (subject.name, subject.version) == ("digits", "1")
    assert (subject.release.exposes, subject.release.top) == (Exposure.PROBABILITIES, 3)
    assert subject.model.architecture == Mlp((16,))
    ledger = subject.account.ledger
    assert ledger is not None
    assert subject.account.claim is None
    assert ledger.proves
    assert ledger.records == len(records.members)
    assert ledger.data == content_digest(records.members)
    assert ledger.model == subject.model.sha256
    steps = round(2 * ledger.records / 64)
    event = SampledGaussian(64 / ledger.records, 1.1, steps, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
    assert ledger.events == (event,)
    history = json.loads((folder / "history.json").read_text())["epochs"]
    assert [e["epsilon"] for e in history] == [e.epsilon for e in told]
    text = (folder / "model.yaml").read_text()
    assert str(tmp_path) not in text


def test_plain_training_says_so_and_repeats_itself(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe("  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1}\n", "")
    one, same = train(path, tmp_path / "one"), train(path, tmp_path / "deep" / "same")
    assert read_ledger(one.parent / "ledger.json").events == (NonPrivate("trained without a mechanism"),)
    for name in ("model.pt", "model.yaml", "ledger.json", "members.npz", "history.json"):
        assert (one.parent / name).read_bytes() == (same.parent / name).read_bytes(), name


def test_an_earlier_training_is_replaced(recipe: Callable[..., Path], tmp_path: Path) -> None:
    model = train(recipe(), tmp_path / "out")
    before = model.read_bytes()
    (model.parent / "report.html").write_text("of the earlier model")
    train(recipe(), tmp_path / "out")
    assert model.read_bytes() != before, "fresh noise"
    assert "report.html" not in names(model.parent)
    assert names(tmp_path) == {"out", "recipe.yaml"}


def test_somebody_elses_folder_is_not_touched(recipe: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    check_folder(folder)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        train(recipe(), folder)
    (folder / "thesis.tex").rename(folder / "model.pt")
    with pytest.raises(InputError, match="not one that midguard trained into"):
        train(recipe(), folder)
    with pytest.raises(InputError, match="no folder"):
        train(recipe(), folder / "model.pt")
    assert (folder / "model.pt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_refused(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        train(recipe(), tmp_path / "file" / "out")


class StoppedError(Exception):
    """Somebody pressed a key."""


def test_a_training_that_stops_leaves_no_model(recipe: Callable[..., Path], tmp_path: Path) -> None:
    def stop(epoch: Epoch, _: int) -> None:
        if epoch.number == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(recipe(), tmp_path / "out", stop)
    assert names(tmp_path) == {".out.unfinished", "recipe.yaml"}, "only what lets it go on"


def test_a_failure_while_writing_keeps_the_earlier_training(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(recipe(), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("midguard.engine.folder._ledger", full)
    with pytest.raises(OSError, match="No space left"):
        train(recipe(), model.parent)
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before
    assert names(tmp_path) == {".out.unfinished", "out", "recipe.yaml"}


def test_a_failure_while_moving_brings_the_earlier_training_back(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(recipe(), tmp_path / "out")
    before, rename = model.read_bytes(), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        train(recipe(), model.parent)
    assert model.read_bytes() == before
    assert names(tmp_path) == {".out.unfinished", "out", "recipe.yaml"}
    monkeypatch.setattr(Path, "rename", rename)
    train(recipe(), model.parent)
    assert model.read_bytes() != before, "what was trained is not lost"
    assert names(tmp_path) == {"out", "recipe.yaml"}


_KILLED = """
import os, sys
from pathlib import Path
from midguard.engine import folder, training
folder._ledger = lambda *_: os._exit(9)
training.train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_kill_while_writing_leaves_no_half_written_folder(recipe: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = recipe("  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1}\n", "")
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(path), str(out)], check=False, timeout=120)
    assert ended.returncode == 9
    assert not out.exists()
    assert train(path, out).exists(), "and the next training is not in its way"
