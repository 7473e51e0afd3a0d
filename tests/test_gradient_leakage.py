"""Gradients that pass by: what a release gives of them, and the records that can be read off or matched to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import nn

from midguard.attacks.inversion._gradients import Shown
from midguard.attacks.inversion.gradient_leakage import GradientLeakage
from midguard.engine.attack import RecordInversion
from midguard.engine.check import prepare
from midguard.engine.errors import AccessError, AttackError
from midguard.engine.exposed import exposed_gradients
from midguard.engine.subject import Task, make_target
from midguard.engine.target import Access, Exposure, Noise, NoiseKind, NoiseSource, Records, Release, Target

from .conftest import Ended

TASK = Task("classification", 10, (1, 8, 8), (0.0, 1.0))
KINDS = {
    NoiseKind.UNIFORM: stats.uniform(0, 0.3),
    NoiseKind.GAUSSIAN: stats.norm(0, 0.3),
    NoiseKind.LAPLACE: stats.laplace(0, 0.3),
}
#: Where it is not the quality of the search that is looked at.
QUICK = GradientLeakage(steps=8, restarts=2)
Writer = Callable[..., Path]
Gate = Callable[..., Ended]


def digits(count: int, start: int = 0) -> Records:
    found = load_digits()
    x = (found.images[start : start + count, None] / 16).astype(np.float32)
    return Records(x, found.target[start : start + count].astype(np.int64))


VICTIMS, OTHERS = digits(16), digits(600, 800)


def built(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """The layers, their weights drawn anew from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(*layers)
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return net.eval().requires_grad_(False)


def mlp(width: int = 64, seed: int = 0) -> nn.Sequential:
    return built(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10), seed=seed)


def smooth() -> nn.Sequential:
    """A convolution with a smooth activation and nothing pooled, as in Zhu et al. 2019."""
    return built(nn.Conv2d(1, 6, 5, padding=2, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(96, 10))


def release(scale: float = 0.0, kind: NoiseKind = NoiseKind.GAUSSIAN, **changes: Any) -> Release:
    return Release(Exposure.GRADIENTS, noise=Noise(kind, scale) if scale else None, **changes)


def target(shown: Release, net: nn.Module | None = None, access: Access = Access.WEIGHTS, seed: int = 5) -> Target:
    module = mlp() if net is None else net
    return make_target(TASK, shown, access, None, lambda: module, noise_seed=seed)


def reconstruct(attack: GradientLeakage, at: Target, victims: Records = VICTIMS, seed: int = 0) -> NDArray[np.float32]:
    outputs = at.observe(victims.x, victims.y)[None]
    outputs.setflags(write=False)
    return attack.reconstruct_records(at, outputs, seed, lambda _: None)


def errors(found: NDArray[np.float32], truth: NDArray[np.float32] = VICTIMS.x, batch: int = 1) -> NDArray[np.float64]:
    """Of each record, matched within its batch (Kuhn 1955)."""
    rows = []
    for i in range(0, len(truth), batch):
        cost = ((found[i : i + batch, None].astype(np.float64) - truth[None, i : i + batch]) ** 2).mean(axis=(2, 3, 4))
        rows.append(cost[linear_sum_assignment(cost)])
    return np.concatenate(rows)


#: Of the mean record of each true class, of records that are nobody's.
MEANS = np.stack([OTHERS.x[OTHERS.y == label].mean(axis=0) for label in VICTIMS.y])
CLASS = errors(MEANS)


# --- what passes by --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("net", [mlp(), smooth()], ids=["mlp", "conv"])
def test_what_passes_is_the_mean_gradient_of_each_batch(net: nn.Module, batch: int) -> None:
    found = target(release(batch=batch), net).observe(VICTIMS.x, VICTIMS.y)
    for row, start in zip(found, range(0, 16, batch), strict=True):
        copy = mlp() if isinstance(net[0], nn.Flatten) else smooth()  # type: ignore[index]
        copy.requires_grad_(True)
        x, y = torch.from_numpy(VICTIMS.x[start : start + batch]), torch.from_numpy(VICTIMS.y[start : start + batch])
        nn.functional.cross_entropy(copy(x), y).backward()
        expected = torch.cat([p.grad.flatten() for p in copy.parameters() if p.grad is not None])
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-7)
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_the_gradient_of_a_softmax_regression_is_known_in_closed_form() -> None:
    net = built(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        p = net(torch.from_numpy(VICTIMS.x)).softmax(dim=1).numpy().astype(np.float64)
    pulled = p - np.eye(10)[VICTIMS.y]
    weight = pulled[:, :, None] * VICTIMS.x.reshape(16, 1, 64)
    expected = np.concatenate([weight.reshape(16, -1), pulled], axis=1)
    np.testing.assert_allclose(target(release(), net).observe(VICTIMS.x, VICTIMS.y), expected, rtol=1e-4, atol=1e-7)


def test_records_that_fill_no_batch_do_not_pass() -> None:
    assert target(release(batch=5)).observe(VICTIMS.x, VICTIMS.y).shape[0] == 3


def test_each_record_is_clipped_before_the_mean_is_taken() -> None:
    whole = target(release()).observe(VICTIMS.x, VICTIMS.y)
    norms = np.linalg.norm(whole, axis=1)
    clip = float(np.median(norms))
    clipped = whole * np.minimum(1, clip / norms)[:, None]
    found = target(release(clip=clip, batch=4)).observe(VICTIMS.x, VICTIMS.y)
    np.testing.assert_allclose(found, clipped.reshape(4, 4, -1).mean(axis=1), rtol=1e-6, atol=1e-9)
    assert (np.linalg.norm(target(release(clip=clip)).observe(VICTIMS.x, VICTIMS.y), axis=1) <= clip * 1.0001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_added_to_every_coordinate_as_the_release_says(kind: NoiseKind) -> None:
    # Three tests at 1e-4, their seeds fixed.
    at, clean = target(release(0.3, kind, batch=4)), target(release(batch=4)).observe(VICTIMS.x, VICTIMS.y)
    added = at.observe(VICTIMS.x, VICTIMS.y) - clean
    assert (added != 0).all()
    assert stats.kstest(added.ravel(), KINDS[kind].cdf).pvalue > 1e-4
    assert (at.observe(VICTIMS.x, VICTIMS.y) - clean != added).all()


def test_gradients_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="with their classes"):
        target(release()).observe(VICTIMS.x)


# --- declarations and bad input --------------------------------------------------------------------------------------


def test_declares_what_it_needs() -> None:
    attack = GradientLeakage()
    assert isinstance(attack, RecordInversion)
    seen = {"released": Exposure.GRADIENTS}
    assert attack.threat.obstacle(Access.WEIGHTS, Exposure.LOGITS, False, **seen) == ""  # type: ignore[arg-type]
    assert "needs the weights" in attack.threat.obstacle(Access.RELEASE, Exposure.GRADIENTS, True)
    assert "it needs gradients" in attack.threat.obstacle(Access.WEIGHTS, Exposure.LOGITS, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"restarts": 0},
        {"victims": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"total_variation": -1.0},
        {"total_variation": float("inf")},
    ],
    ids=str,
)
def test_refuses_parameters_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected.*{next(iter(wrong))}"):
        GradientLeakage(**wrong)


def test_needs_the_weights() -> None:
    with pytest.raises(AccessError):
        reconstruct(QUICK, target(release(), access=Access.RELEASE))


def test_refuses_gradients_of_another_model() -> None:
    with pytest.raises(AttackError, match=r"expected gradients of 4810 parameters, found 12"):
        QUICK.reconstruct_records(target(release()), np.zeros((1, 2, 12)), 0, lambda _: None)


def test_a_gradient_that_is_not_finite_is_reconstructed_as_nan() -> None:
    at = target(release(batch=2))
    outputs = at.observe(VICTIMS.x[:6], VICTIMS.y[:6])[None]
    outputs[0, 1, 3] = np.nan
    found = QUICK.reconstruct_records(at, outputs, 0, lambda _: None)
    assert np.isnan(found).reshape(6, -1).all(axis=1).tolist() == [False, False, True, True, False, False]
    assert np.isfinite(found[[0, 1, 4, 5]]).all()


# --- conduct ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_records_and_leaves_global_randomness_alone() -> None:
    net = smooth()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, again, other = (reconstruct(QUICK, target(release(), net), seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(("batch", "clip"), [(1, None), (4, None), (4, 0.5)])
def test_costs_no_more_passes_than_it_says(batch: int, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [0]
    whole = Shown._gradients

    def counted(self: Shown, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        passed[0] += labels.numel()
        return whole(self, x, labels)

    monkeypatch.setattr(Shown, "_gradients", counted)
    at = target(release(batch=batch, clip=clip), smooth())
    reconstruct(QUICK, at)
    announced = QUICK.queries(len(VICTIMS), 0)
    assert QUICK.steps * QUICK.restarts * len(VICTIMS) < passed[0] <= announced
    assert at.queries == len(VICTIMS)  # what passed by, and nothing more


def test_progress_only_moves_forward_and_arrives() -> None:
    done: list[float] = []
    at = target(release(), smooth())
    QUICK.reconstruct_records(at, at.observe(VICTIMS.x, VICTIMS.y)[None], 0, done.append)
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_the_model_is_left_as_it_was() -> None:
    net = smooth()
    before = [p.clone() for p in net.parameters()]
    reconstruct(QUICK, target(release(), net))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("net", [mlp(), smooth()], ids=["mlp", "conv"])
def test_the_class_of_a_single_record_is_read_off_without_fail(net: nn.Module, clip: float | None) -> None:
    # Zhao et al. 2020, section 3: the one class whose pull is negative.
    at = target(release(clip=clip), net)
    shown = Shown.of(net, at, at.observe(OTHERS.x[:200], OTHERS.y[:200]))
    assert np.array_equal(shown.labels[:, 0].numpy(), OTHERS.y[:200])


def test_without_a_bias_the_class_is_read_off_the_weights() -> None:
    net = built(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10, bias=False))
    at = target(release(), net)
    shown = Shown.of(net, at, at.observe(VICTIMS.x, VICTIMS.y))
    assert np.array_equal(shown.labels[:, 0].numpy(), VICTIMS.y)


def test_the_classes_of_a_batch_are_counted() -> None:
    # Every multiset of a model that is still near a tenth for each class; twenty batches of four, two of them the same.
    order = np.argsort(OTHERS.y[:80] // 2, kind="stable")
    y, x = OTHERS.y[order], OTHERS.x[order]
    net = mlp()
    at = target(release(batch=4), net)
    shown = Shown.of(net, at, at.observe(x, y))
    assert np.array_equal(np.sort(shown.labels.numpy(), axis=1), np.sort(y.reshape(-1, 4), axis=1))
    assert (np.diff(np.sort(y.reshape(-1, 4), axis=1), axis=1) == 0).any(axis=1).sum() > 10


# --- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_dense_layer_gives_its_record_away_exactly(clip: float | None) -> None:
    assert errors(reconstruct(QUICK, target(release(clip=clip)))).max() < 1e-8


def test_a_dense_layer_gives_records_on_any_scale_away() -> None:
    wide = Task("classification", 10, (1, 8, 8), (-2.0, 6.0))
    victims = Records(VICTIMS.x * 8 - 2, VICTIMS.y)
    at = make_target(wide, release(), Access.WEIGHTS, None, mlp)
    found = QUICK.reconstruct_records(at, at.observe(victims.x, victims.y)[None], 0, lambda _: None)
    assert errors(found, victims.x).max() < 1e-6
    assert found.min() >= -2
    assert found.max() <= 6


def test_rows_that_one_record_wakes_give_it_away_in_a_batch() -> None:
    # Each of four rows listens to a pixel that is bright in one record alone: four records in one gradient.
    x = np.full((4, 1, 8, 8), 0.2, dtype=np.float32)
    x.reshape(4, 64)[np.arange(4), np.arange(4)] = 1.0
    x[:, :, 4:] += np.random.default_rng(0).uniform(0, 0.5, (4, 1, 4, 8)).astype(np.float32)
    net = mlp(4)
    net[1].weight.zero_()
    net[1].weight[torch.arange(4), torch.arange(4)] = 1.0
    net[1].bias.fill_(-0.5)
    victims = Records(x, np.array([3, 1, 4, 1]))
    found = reconstruct(QUICK, target(release(batch=4), net), victims)
    assert errors(found, x, 4).max() < 1e-8
    assert errors(found[::-1], x, 4).max() < 1e-8  # whatever their order
    assert errors(found[[1, 2, 3, 0]], x, 1).max() > 1e-3


def test_a_wide_dense_layer_gives_a_batch_away() -> None:
    found = reconstruct(GradientLeakage(steps=150, restarts=1), target(release(batch=2), mlp(200)))
    assert np.median(errors(found, batch=2)) < 0.05 * np.median(CLASS)


def test_a_convolution_is_matched() -> None:
    # Zhu et al. 2019: without a closed form, by descending on the gradients' difference.
    victims = VICTIMS.take(np.arange(4))
    found = reconstruct(GradientLeakage(steps=200, restarts=2), target(release(), smooth()), victims)
    assert np.median(errors(found, victims.x)) < 0.3 * np.median(CLASS[:4])


def test_who_owns_records_begins_at_their_mean_and_comes_nearer() -> None:
    # A network with kinks, at which a search from anywhere gets stuck.
    net = built(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    attack, victims = GradientLeakage(steps=100, restarts=1), VICTIMS.take(np.arange(8))
    found = [
        np.median(
            errors(
                reconstruct(attack, dataclasses.replace(target(release(), net), auxiliary=owned), victims), victims.x
            )
        )
        for owned in (OTHERS, None)
    ]
    assert found[0] < 0.5 * found[1]
    assert found[0] < 0.5 * np.median(CLASS[:8])


def test_the_start_is_the_mean_of_the_class_or_of_all_where_there_is_none_of_it() -> None:
    at = target(release())
    shown = Shown.of(at.module(), at, at.observe(VICTIMS.x, VICTIMS.y))
    some = OTHERS.take(np.flatnonzero(OTHERS.y != 3))
    expected = np.stack([(some.x[some.y == c] if c != 3 else some.x).mean(axis=0) for c in VICTIMS.y])
    np.testing.assert_allclose(shown.class_means(some)[:, 0].numpy(), expected, atol=1e-6)


def test_what_matches_better_is_kept() -> None:
    # More starts can only bring the gradient nearer, by the adversary's own measure.
    at = target(release(), smooth())
    outputs = at.observe(VICTIMS.x, VICTIMS.y)
    shown = Shown.of(at.module(), at, outputs)

    def missed(restarts: int) -> NDArray[np.float64]:
        found = GradientLeakage(steps=20, restarts=restarts).reconstruct_records(at, outputs[None], 0, lambda _: None)
        return shown.missed(torch.from_numpy(found)[:, None]).numpy()

    one, three = missed(1), missed(3)
    assert (three <= one + 1e-6).all()
    assert (three < one - 1e-4).any()


def test_several_looks_at_a_noised_gradient_are_averaged() -> None:
    clean = target(release()).observe(VICTIMS.x, VICTIMS.y)
    noised = np.stack([clean + 0.5, clean - 0.5])
    at = target(release())
    assert errors(QUICK.reconstruct_records(at, noised, 0, lambda _: None)).max() < 1e-6


def test_the_more_noise_the_further_the_record() -> None:
    found = [np.mean(errors(reconstruct(QUICK, target(release(scale))))) for scale in (0.0, 1e-4, 1e-3, 1e-1)]
    assert found == sorted(found)
    assert found[1] > 10 * found[0]
    assert found[2] < np.median(CLASS) < found[3]


# --- what it does not find -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [mlp, smooth], ids=["mlp", "conv"])
@pytest.mark.parametrize("batch", [1, 4])
def test_gradients_of_nothing_tell_nothing(net: Callable[[], nn.Module], batch: int) -> None:
    at = target(release(batch=batch), net())
    nothing = np.zeros_like(at.observe(VICTIMS.x, VICTIMS.y))[None]
    found = QUICK.reconstruct_records(at, nothing, 0, lambda _: None)
    assert np.isfinite(found).all()
    assert np.quantile(errors(found, batch=batch), 0.05) > 0.97 * np.quantile(CLASS, 0.05)


@pytest.mark.parametrize("net", [mlp, smooth], ids=["mlp", "conv"])
def test_noise_that_drowns_everything_leaves_nothing_better_than_no_model(net: Callable[[], nn.Module]) -> None:
    found = reconstruct(QUICK, target(release(1e6), net()))
    assert np.isfinite(found).all()
    assert np.quantile(errors(found), 0.05) > 0.97 * np.quantile(CLASS, 0.05)


# --- the gate --------------------------------------------------------------------------------------------------------

FAR = (
    "id: far, measure: inversion.distance, at: {quantile: 0.5}, min: 0.75, "
    "attacks: [{name: inversion.gradient_leakage, steps: 20, restarts: 1}]"
)


def with_release(folder: Path, written: str) -> Path:
    file = folder / "model.yaml"
    file.write_text(file.read_text().replace("release: {exposes: probabilities}", f"release: {written}"))
    assert written in file.read_text()
    return folder / "model.pt"


def test_gradients_of_a_dense_network_fail(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    model = with_release(careless, "{exposes: gradients}")
    ended = midguard("check", write_policy(FAR, access="weights"), model)
    assert ended.code == 1, ended.out + ended.err


def test_gradients_that_noise_drowns_never_fail(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    model = with_release(careless, "{exposes: gradients, clip: 1.0, noise: {kind: gaussian, scale: 100.0}}")
    ended = midguard("check", write_policy(FAR, access="weights"), model)
    assert ended.code in {0, 3}, ended.out + ended.err


def test_who_does_not_hold_the_model_cannot_and_that_is_no_pass(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    ended = midguard("check", write_policy(FAR), with_release(careless, "{exposes: gradients}"))
    assert ended.code == 3
    assert "it needs the weights" in ended.out + ended.err


def test_a_batch_of_more_records_than_there_are_is_refused_with_its_place(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    ended = midguard(
        "check", write_policy(FAR, access="weights"), with_release(careless, "{exposes: gradients, batch: 5000}")
    )
    line = next(n for n, text in enumerate((careless / "model.yaml").read_text().splitlines(), 1) if "release:" in text)
    assert ended.code == 2
    assert f"model.yaml:{line}:" in ended.err
    assert "gradients of 5000 records at a time" in ended.err


def test_a_batch_of_more_records_than_are_attacked_is_attacked_whole(careless: Path, write_policy: Writer) -> None:
    model = with_release(careless, "{exposes: gradients, batch: 100}")
    (job,) = prepare(write_policy(FAR, access="weights"), model, store=careless / "store").plan.jobs
    assert job.targets == 100


def test_a_target_draws_its_noise_from_its_own_source() -> None:
    shown = release(0.3)
    found = exposed_gradients(mlp(), shown, VICTIMS.x, VICTIMS.y, NoiseSource(5))
    assert np.array_equal(found, target(shown).observe(VICTIMS.x, VICTIMS.y))
    assert not np.array_equal(found, dataclasses.replace(target(shown, seed=6)).observe(VICTIMS.x, VICTIMS.y))
