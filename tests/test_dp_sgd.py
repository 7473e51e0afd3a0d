"""DP-SGD: what a step does and leaves behind, and what Opacus lets through; adaptive clipping, witnesses, resuming."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from midguard.engine.accountants import account
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.defenses import Setting, State, StepSeen, _run
from midguard.engine.defenses._adaptive import Adaptive
from midguard.engine.defenses._checks import check_module
from midguard.engine.defenses._descent import descend
from midguard.engine.defenses._run import DpSgdRun
from midguard.engine.defenses._size import records_at_once
from midguard.engine.defenses._sums import Gradient, add_in_pieces, sums_by
from midguard.engine.defenses.dp_sgd import DpSgd, Way
from midguard.engine.errors import AccountingError, InputError, MidguardError
from midguard.engine.ledger import ENGINE_SAMPLER, Ledger, SampledGaussian, Sampler

WAYS: tuple[Way, ...] = ("bookkeeping", "ghost", "hooks", "functorch")
SHAPE = (1, 8, 6)
PRIVATE = DpSgd(noise_multiplier=1.0, delta=1e-4)


def network(architecture: Any = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (architecture or Mlp((8,), activation="tanh")).build(SHAPE, 3).train()  # type: ignore[no-any-return]


def records(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, *SHAPE, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def setting(n: int = 200, batch_size: int = 20, epochs: int = 1, lr: float = 1.0, **more: Any) -> Setting:
    module = more.pop("module", None) or network()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr)
    return Setting(module, optimizer, records(6)[0], n, batch_size, epochs, **more)


def protect(defense: DpSgd, at: Setting, resumed: State | None = None) -> DpSgdRun:
    run = defense.protect(at, resumed)
    assert isinstance(run, DpSgdRun)
    return run


def stepped(run: DpSgdRun, n: int) -> int:
    """All steps of an epoch. Returns: how many."""
    x, y = records(n)
    steps = 0
    for index in run.batches():
        run.step(x[index], y[index])
        steps += 1
    return steps


def flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.detach().double().flatten() for part in parts])


@dataclasses.dataclass
class Watching:
    """A witness that remembers, and adds a canary of 1 to the first number where it is told to."""

    canary: float = 0.0
    seen: list[StepSeen] = dataclasses.field(default_factory=list)

    def contribute(self, step: int) -> list[torch.Tensor] | None:
        if not self.canary:
            return None
        parts = [torch.zeros_like(p) for p in network().parameters()]
        parts[0].view(-1)[0] = self.canary
        return parts

    def saw(self, step: StepSeen) -> None:
        kept = ([part.clone() for part in parts] for parts in (step.sums, step.noised))
        self.seen.append(StepSeen(step.step, step.sample.copy(), *kept, step.clipping_norm, step.noise_multiplier))


class Quiet:
    """In the place of a secret: samples from a seed, and no noise at all."""

    digest = "none"

    def __init__(self) -> None:
        self._chance = np.random.default_rng(3)

    def poisson_sample(self, n: int, probability: float) -> NDArray[np.int64]:
        return np.flatnonzero(self._chance.random(n) < probability)

    def fill(self, out: NDArray[np.float64], deviation: float) -> None:
        out[:] = 0.0

    def normal(self) -> float:
        return 0.0


# Ways to the clipped sum


@pytest.mark.parametrize("architecture", [Mlp((8,)), Cnn((3, 4), (5,)), Cnn((3,), (5,), norm="group")])
def test_every_way_gives_the_same_sum(architecture: Any) -> None:
    x, y = records(30)
    found = []
    for way in WAYS:
        module = network(architecture)
        sums, totals = sums_by(way, module), Gradient(list(module.parameters()))
        batch = sums.add(x, y, 0.7, totals.parts)
        sums.release()
        found.append((totals.flat, batch.norms, batch.logits))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(same, one, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("architecture", "chain"), [(Mlp((8,)), True), (Cnn((3,), (5,)), True), (Cnn((3,), (5,), norm="group"), False)]
)
def test_the_fastest_way_that_is_right_is_chosen(architecture: Any, chain: bool) -> None:
    from midguard.engine.gradients._chain import Chain
    from midguard.engine.gradients._clipped import BookKept

    assert check_module(setting(module=network(architecture)), "auto") == "bookkeeping"
    keeper = BookKept(network(architecture)).keeper
    assert isinstance(keeper, Chain) == chain


class Scaled(nn.Module):
    """A parameter of its own, which only functorch knows what to do with."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(48))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * self.scale


def test_what_book_keeping_does_not_know_is_trained_in_another_way() -> None:
    module = nn.Sequential(Scaled(), nn.Linear(48, 3))
    assert check_module(setting(module=module), "auto") in ("hooks", "functorch", "ghost")
    with pytest.raises(InputError, match="of kind Scaled"):
        check_module(setting(module=module), "bookkeeping")


@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_does_not_clip_is_found_before_training(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus' ghost mode with the original criterion: accepted there, and accounted for as usual."""
    for place in ("defenses._opacus", "gradients._clipped"):
        monkeypatch.setattr(f"midguard.engine.{place}.factors_for", lambda norms, bound: torch.ones_like(norms))
    with pytest.raises(InputError, match=rf"mode '{way}'.*not bounded"):
        check_module(setting(), way)
    with pytest.raises(InputError, match="not bounded"):
        check_module(setting(), "auto")


def test_half_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"torch\.bfloat16.*coarsely"):
        check_module(setting(module=network().bfloat16()), "auto")


def test_nothing_to_train_is_refused() -> None:
    module = network()
    at = setting(module=module)
    module.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        check_module(dataclasses.replace(at, optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))])), "auto")


# Logical batches in bounded memory


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [1, 7, 29, 30, 100])
def test_a_batch_in_pieces_sums_to_the_same(way: Way, most: int) -> None:
    x, y = records(30)
    whole, pieces = (Gradient(list(network().parameters())) for _ in range(2))
    expected = sums_by(way, network()).add(x, y, 0.5, whole.parts)
    found = add_in_pieces(sums_by(way, network()), x, y, 0.5, pieces.parts, most)
    assert found is not None
    torch.testing.assert_close(pieces.flat, whole.flat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_no_more_records_than_that_are_worked_on_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = protect(dataclasses.replace(PRIVATE, physical_batch=6), setting(n=100, batch_size=100))
    add = run._sums.add
    monkeypatch.setattr(run._sums, "add", lambda x, y, *rest: seen.append(len(x)) or add(x, y, *rest))
    assert stepped(run, 100) == 1
    assert seen == [6] * 16 + [4]


def test_what_is_materialised_is_worked_on_in_smaller_pieces() -> None:
    module, example = Mlp((4000,)).build((500,), 3), torch.rand(2, 500)
    assert 8 <= records_at_once(module, example, "hooks") < records_at_once(module, example, "bookkeeping") <= 1024


# What a step divides by, and what the ledger says of it


@pytest.mark.parametrize(("n", "batch_size"), [(49, 1), (10, 5), (9, 5), (7648, 16), (300, 299)])
def test_the_sum_is_divided_by_the_expected_number_from_the_recipe(n: int, batch_size: int) -> None:
    """Opacus rounds it: to 0 for 49 records in batches of 1, to 5 and 4 for 10 and 9 records in batches of 5."""
    watching = Watching()
    at = setting(n, batch_size, witness=watching)
    run = protect(DpSgd(noise_multiplier=1.0, delta=1e-6), at)
    x, y = records(n)
    before = flat(list(at.module.parameters()))
    index = next(iter(run.batches()))
    run.step(x[index], y[index])
    moved = before - flat(list(at.module.parameters()))
    torch.testing.assert_close(moved, flat(watching.seen[0].noised) / batch_size, rtol=1e-4, atol=1e-6)


def test_the_ledger_has_the_probability_that_was_sampled_with(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    class Asked(Quiet):
        def poisson_sample(self, n: int, probability: float) -> NDArray[np.int64]:
            asked.append((n, probability))
            return super().poisson_sample(n, probability)

    monkeypatch.setattr(_run, "Secret", Asked)
    run = protect(PRIVATE, setting(n=61, batch_size=16))
    steps = stepped(run, 61)
    (event,) = run.finish()
    assert event == SampledGaussian(16 / 61, 1.0, steps, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
    assert set(asked) == {(61, 16 / 61)}
    assert len(asked) == steps


def test_a_step_that_fails_half_way_has_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    run = protect(PRIVATE, setting())
    x, y = records(200)
    index = next(iter(run.batches()))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run._sums, "add", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.step(x[index], y[index])
    (event,) = run.finish()
    assert isinstance(event, SampledGaussian)
    assert event.steps == 1


def test_no_gradient_without_noise_is_left_behind() -> None:
    """Whoever steps the optimiser once more, or reads the gradients, has what was released and nothing else."""
    watching = Watching()
    at = setting(witness=watching)
    run = protect(PRIVATE, at)
    x, y = records(200)
    for index in run.batches():
        run.step(x[index], y[index])
        left = flat([p.grad for p in at.module.parameters() if p.grad is not None])
        torch.testing.assert_close(left, flat(watching.seen[-1].noised) / 20, rtol=1e-5, atol=1e-7)
    run.finish()
    assert all(p.grad is None for p in at.module.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, 3e38])
def test_one_broken_record_does_not_show_in_the_weights(way: Way, broken: float) -> None:
    at = setting(n=30, batch_size=30)
    run = protect(dataclasses.replace(PRIVATE, mode=way), at)
    x, y = records(30)
    x[4] = broken
    for index in run.batches():
        run.step(x[index], y[index])
    run.finish()
    assert all(bool(p.isfinite().all()) for p in at.module.parameters())


def test_frozen_layers_get_neither_sum_nor_noise() -> None:
    module = network()
    first = next(module.parameters())
    first.requires_grad_(False)
    before = first.clone()
    run = protect(PRIVATE, setting(module=module))
    assert len(run._gradient.parts) == len(list(module.parameters())) - 1
    stepped(run, 200)
    assert torch.equal(first, before)
    assert first.grad is None


def test_an_accountant_that_fails_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise AccountingError("no bound")

    run = protect(PRIVATE, setting())
    stepped(run, 200)
    monkeypatch.setattr(_run, "epsilon_so_far", fail)
    with pytest.raises(AccountingError, match="no bound"):
        run.epsilon()


def test_weights_in_another_layout_get_their_own_gradients() -> None:
    """A fused optimiser reads gradients as they lie in memory."""
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = network(Cnn((3, 4), (5,))).to(memory_format=layout)
        watching = Watching()
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0, fused=True)
        at = dataclasses.replace(setting(module=module, witness=watching), optimizer=optimizer)
        run, before = protect(PRIVATE, at), flat(list(module.parameters()))
        x, y = records(200)
        index = next(iter(run.batches()))
        run.step(x[index], y[index])
        moved.append((before - flat(list(module.parameters())), flat(watching.seen[0].noised) / 20))
    for found, expected in moved:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# Interrupted, and gone on with


def test_a_resumed_run_goes_on_where_it_was_and_repeats_no_noise() -> None:
    at, watching = setting(epochs=4), Watching()
    first = protect(PRIVATE, dataclasses.replace(at, witness=watching))
    steps = stepped(first, 200)
    broken_off = first.batches()
    x, y = records(200)
    index = next(broken_off)
    first.step(x[index], y[index])
    state = first.state()
    assert (state.epochs, state.steps, state.keys) == (2, steps + 1, (first.noise_key_digest,))
    resumed = dataclasses.replace(state, epochs=1)
    again = Watching()
    second = protect(PRIVATE, dataclasses.replace(at, witness=again), resumed)
    for _ in range(3):
        stepped(second, 200)
    (event,) = second.finish()
    assert isinstance(event, SampledGaussian)
    assert event.steps == 4 * steps, "the whole plan, of which the step that was lost is a part"
    assert second.state().keys == (first.noise_key_digest, second.noise_key_digest)
    assert first.noise_key_digest != second.noise_key_digest
    assert [seen.step for seen in again.seen] == list(range(steps + 1, 4 * steps))
    noises = [flat(s.noised) - flat(s.sums) for s in (*watching.seen, *again.seen)]
    for i, one in enumerate(noises):
        assert not any(torch.equal(one, other) for other in noises[:i])


def test_a_state_says_nothing_of_the_key() -> None:
    run = protect(PRIVATE, setting())
    assert all(len(key) == 64 for key in run.state().keys)
    with pytest.raises(MidguardError, match="repeated"):
        __import__("copy").deepcopy(run)


@pytest.mark.parametrize(
    "changes", [{"steps": -1}, {"epochs": -1}, {"clipping_norm": 0.0}, {"clipping_norm": math.nan}]
)
def test_an_impossible_state_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        State(**{"epochs": 1, "steps": 2, "clipping_norm": 1.0} | changes)


# Witnesses


def test_a_witness_sees_what_happened() -> None:
    watching = Watching(canary=0.9)
    run = protect(dataclasses.replace(PRIVATE, clipping_norm=0.5, noise_multiplier=1e-6), setting(witness=watching))
    x, y = records(200)
    drawn = []
    for index in run.batches():
        drawn.append(index.numpy().copy())
        start = Gradient(list(network().parameters()))
        if len(drawn) == 1:
            sums_by("hooks", network()).add(x[index], y[index], 0.5, start.parts)
            start.parts[0].view(-1)[0] += 0.9
            expected = start.flat.clone()
        run.step(x[index], y[index])
    assert [seen.step for seen in watching.seen] == list(range(len(drawn)))
    assert all((seen.sample == own).all() for seen, own in zip(watching.seen, drawn, strict=True))
    assert {(s.clipping_norm, s.noise_multiplier) for s in watching.seen} == {(0.5, 1e-6)}
    torch.testing.assert_close(flat(watching.seen[0].sums), expected.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flat(watching.seen[0].noised), expected.double(), rtol=1e-4, atol=1e-4)


def test_the_noise_that_a_witness_sees_is_as_large_as_it_is_told() -> None:
    """Chi-square at 1e-6."""
    watching = Watching()
    run = protect(dataclasses.replace(PRIVATE, clipping_norm=0.2, noise_multiplier=3.0), setting(witness=watching))
    stepped(run, 200)
    noise = torch.cat([flat(s.noised) - flat(s.sums) for s in watching.seen]).numpy()
    assert 5e-7 < stats.chi2.cdf(float((noise**2).sum()) / 0.6**2, noise.size) < 1 - 5e-7


# Adaptive clipping


def adaptive(**changes: Any) -> DpSgd:
    return dataclasses.replace(DpSgd(noise_multiplier=1.0, delta=1e-4, clipping="adaptive"), **changes)


@pytest.mark.parametrize(("unclipped", "records_", "normal"), [(3, 10, 0.0), (10, 10, 1.5), (0, 0, 0.0), (0, 0, -2.0)])
def test_the_clipping_norm_moves_as_in_the_paper(unclipped: int, records_: int, normal: float) -> None:
    """C exp(-η (b̃ - γ)), b̃ = (Σ (b_i - 1/2) + noise) / m + 1/2 (Andrew et al. 2021, alg. 1 and its appendix)."""
    how = Adaptive(quantile=0.7, rate=0.2, noise=2.0, expected=8.0)
    share = (sum([0.5] * unclipped + [-0.5] * (records_ - unclipped)) + 2.0 * normal) / 8.0 + 0.5
    assert how.next_norm(3.0, unclipped, records_, normal) == pytest.approx(3.0 * math.exp(-0.2 * (share - 0.7)))


def test_however_strange_the_noise_the_norm_stays_a_number() -> None:
    how = Adaptive(quantile=0.5, rate=1e3, noise=1e3, expected=1.0)
    for normal in (-8.0, 8.0):
        assert 0 < how.next_norm(1.0, 0, 0, normal) < math.inf


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", [1e-3, 1e3])
def test_the_norm_finds_the_quantile(way: Way, start: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and with a rate of nothing, so that the gradients stay what they are."""
    monkeypatch.setattr(_run, "Secret", Quiet)
    n = 60
    at = setting(n, n, epochs=120, lr=1e-12)
    defense = adaptive(clipping_norm=start, target_quantile=0.3, clipping_rate=0.3, mode=way, delta=1e-6)
    run = protect(defense, at)
    for _ in range(120):
        stepped(run, n)
    x, y = records(n)
    norms = sums_by("functorch", network()).add(x, y, 1.0, Gradient(list(network().parameters())).parts).norms
    share = float((norms <= run.state().clipping_norm).float().mean())
    assert share == pytest.approx(0.3, abs=0.05)


def test_empty_samples_are_steps_like_any_other() -> None:
    """Opacus' adaptive clipping divides by their number. The norm moves on noise alone, by the expected number."""
    watching = Watching()
    run = protect(
        adaptive(count_noise_multiplier=20.0, clipping_rate=0.01),
        setting(n=40, batch_size=1, epochs=10, witness=watching),
    )
    for _ in range(10):
        stepped(run, 40)
    sizes = [len(s.sample) for s in watching.seen]
    norms = [s.clipping_norm for s in watching.seen] + [run.state().clipping_norm]
    moves = [math.log(b / a) for a, b, k in zip(norms, norms[1:], sizes, strict=False) if k == 0]
    assert len(moves) > 50
    spread = sum((move / (0.01 * 20 / 2)) ** 2 for move in moves)
    assert 5e-7 < stats.chi2.cdf(spread, len(moves)) < 1 - 5e-7, "as much noise as the ledger says"


def test_the_noise_of_the_sum_follows_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    deviations: list[float] = []

    class Asked(Quiet):
        def fill(self, out: NDArray[np.float64], deviation: float) -> None:
            deviations.append(deviation)
            out[:] = 0.0

    monkeypatch.setattr(_run, "Secret", Asked)
    watching = Watching()
    run = protect(adaptive(clipping_norm=50.0), setting(witness=watching))
    stepped(run, 200)
    norms = [s.clipping_norm for s in watching.seen]
    assert norms == sorted(norms, reverse=True), "nobody is clipped, so it shrinks"
    assert deviations == pytest.approx(norms, rel=1e-3)
    assert float(flat(watching.seen[-1].sums).norm()) <= norms[-1] * len(watching.seen[-1].sample)


def test_the_counts_are_in_the_ledger_and_are_paid_for() -> None:
    run = protect(adaptive(count_noise_multiplier=4.0, clipping_norm=0.3), setting())
    steps = stepped(run, 200)
    (event,) = run.finish()
    assert event == SampledGaussian(0.1, 1.0, steps, 0.3, Sampler.POISSON, ENGINE_SAMPLER, 4.0)
    assert event.effective_noise_multiplier == pytest.approx(1 / math.sqrt(1 + 1 / 16))


def test_a_target_is_met_by_sum_and_counts_together() -> None:
    """The sum gets as much more noise as the counts take; flat clipping needs what both together have."""
    at = setting(n=2000, batch_size=50, epochs=3)
    flat_, moving = (
        DpSgd(target_epsilon=3.0, delta=1e-4, clipping=how, count_noise_multiplier=own).planned(at)
        for how, own in (("flat", None), ("adaptive", 2.0))
    )
    assert moving.noise_multiplier > flat_.noise_multiplier
    assert moving.effective_noise_multiplier == pytest.approx(flat_.noise_multiplier, abs=2e-4)
    assert moving.effective_noise_multiplier >= flat_.noise_multiplier
    spent = account(Ledger(events=(moving,), records=2000, data="", model=""), 1e-4, curve=False).epsilon
    assert 2.9 < spent <= 3.0


def test_counts_that_spend_everything_are_refused() -> None:
    with pytest.raises(InputError, match="counts alone"):
        DpSgd(target_epsilon=1.0, delta=1e-4, clipping="adaptive", count_noise_multiplier=0.1).planned(
            setting(n=2000, batch_size=50)
        )


def test_counts_take_little_unless_asked_to() -> None:
    for batch_size in (10, 200):
        planned = adaptive().planned(setting(n=2000, batch_size=batch_size))
        assert planned.count_noise_multiplier == pytest.approx(max(batch_size / 10, 5.0))
        assert planned.effective_noise_multiplier > 0.97 * planned.noise_multiplier


def test_a_resumed_run_goes_on_with_its_norm() -> None:
    at = setting(epochs=3)
    first = protect(adaptive(), at)
    stepped(first, 200)
    state = first.state()
    assert state.clipping_norm != 1.0
    assert protect(adaptive(), at, state).state().clipping_norm == state.clipping_norm


@pytest.mark.parametrize(
    "build",
    [
        lambda: adaptive(clipping="percentile"),
        lambda: adaptive(target_quantile=0.0),
        lambda: adaptive(target_quantile=1.0),
        lambda: adaptive(target_quantile=math.nan),
        lambda: adaptive(clipping_rate=0.0),
        lambda: adaptive(count_noise_multiplier=0.0),
        lambda: DpSgd(noise_multiplier=1.0, count_noise_multiplier=3.0),
        lambda: DpSgd(noise_multiplier=1.0, physical_batch=0),
    ],
)
def test_impossible_settings_cannot_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        build()


# The optimiser


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=0.3),
        lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.7}, {"params": p[1:]}], lr=0.3),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.3, maximize=True),
        lambda p: torch.optim.SGD(p, lr=torch.tensor(0.3)),
        lambda p: torch.optim.Adam(p, lr=0.3),
    ],
    ids=["plain", "two rates", "momentum", "decay", "upwards", "rate as a tensor", "adam"],
)
def test_the_weights_are_those_of_the_optimisers_own_step(build: Callable[[Any], torch.optim.Optimizer]) -> None:
    ends = []
    for step in (descend, lambda optimizer: optimizer.step()):
        parameters = list(network().parameters())
        optimizer = build(parameters)
        for turn in range(3):
            for i, p in enumerate(parameters):
                p.grad = None if i == 2 else torch.full_like(p, 0.1 * (turn + i))
            step(optimizer)
        ends.append(flat(parameters))
    assert torch.equal(*ends)


def test_whoever_listens_to_the_optimiser_hears_every_step() -> None:
    heard: list[str] = []
    parameters = list(network().parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.register_step_post_hook(lambda *_: heard.append("hook"))
    descend(optimizer)
    scheduled = torch.optim.SGD(parameters, lr=0.1)
    torch.optim.lr_scheduler.ConstantLR(scheduled)  # takes the place of `step`, and counts
    descend(scheduled)
    assert heard == ["hook"]
    assert scheduled._opt_called  # type: ignore[attr-defined]
