"""What a model learnt between two snapshots: updates made at once, what is read from them, and the gate around it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from midguard.attacks.inversion import _update_readers as readers
from midguard.attacks.inversion.update_leaks import UpdateLeaks, change_of
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.attack import UpdateInversion
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.descent import fit
from midguard.engine.errors import AttackError, InputError, NotMeasurable
from midguard.engine.judges import matched
from midguard.engine.recipe import Augmentation, OptimizerChoice, Recipe, Schedule
from midguard.engine.subject import Task, load_module, load_previous, load_records, load_subject, make_target
from midguard.engine.target import Access, Exposure, Previous, Records, Release, Target
from midguard.engine.updates import UpdateSets, answers_after, updated

TASK = Task("classification", 10, (1, 8, 8), (0.0, 1.0))
SMALL = UpdateLeaks(updates=300, probes=30, epochs=40, rounds=4, width=64, samples=200)


def digits() -> Records:
    found = load_digits()
    return Records((found.images[:, None] / 16).astype(np.float32), found.target.astype(np.int64))


def recipe(lr: float = 0.05, epochs: int = 1, **changes: object) -> Recipe:
    plain = Recipe(
        Mlp((32,)), TASK, OptimizerChoice("sgd", lr=lr, momentum=0.9), Schedule("constant"), epochs=epochs, batch_size=8
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base() -> torch.nn.Module:
    return fit(recipe(epochs=20), digits().take(np.arange(400)), 0).module.eval().requires_grad_(False)


def sets(size: int, count: int, seed: int = 0) -> UpdateSets:
    pool, rng = digits(), np.random.default_rng(seed)
    index = np.stack([400 + rng.choice(300, size, replace=False) for _ in range(count)])
    return UpdateSets(pool.x[index], pool.y[index])


def target_of(module: torch.nn.Module, after: torch.nn.Module, size: int, access: Access = Access.RELEASE,
              exposes: Exposure = Exposure.PROBABILITIES, how: Recipe | None = None) -> Target:  # fmt: skip
    def seen(net: torch.nn.Module) -> Target:
        return make_target(TASK, Release(exposes), access, digits().take(np.arange(700, 1797)), lambda: net)

    made = seen(after)
    made.previous = Previous(size, seen(module), how or recipe())
    return made


# --- many updates at once


@pytest.mark.parametrize("choice", [
    OptimizerChoice("sgd", lr=0.1, momentum=0.9), OptimizerChoice("adam", lr=0.01),
    OptimizerChoice("adamw", lr=0.01, weight_decay=0.1), OptimizerChoice("sgd", lr=0.1, weight_decay=0.01),
], ids=str)  # fmt: skip
def test_updates_at_once_are_those_of_single_copies(base: torch.nn.Module, choice: OptimizerChoice) -> None:
    how, many, probes = recipe(optimizer=choice, epochs=3), sets(12, 5), digits().x[:20]
    found = answers_after(base, many, how, probes, 3)
    for i in range(len(many)):
        alone = by_hand(base, many.x[i], many.y[i], how, 3)
        np.testing.assert_allclose(found[i], alone(torch.from_numpy(probes)).detach().numpy(), atol=2e-4)
        other = updated(base, many.x[i], many.y[i], how, 3)
        np.testing.assert_allclose(found[i], other(torch.from_numpy(probes)).numpy(), atol=2e-4)


def by_hand(module: torch.nn.Module, x: np.ndarray, y: np.ndarray, how: Recipe, seed: int) -> torch.nn.Module:
    """One copy, trained by autograd and torch's optimiser in the same order."""
    net, order = copy.deepcopy(module).requires_grad_(True), torch.Generator().manual_seed(seed)
    choice = how.optimizer
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[choice.name]
    extra = {"momentum": choice.momentum} if choice.name == "sgd" else {}
    optimiser = kind(net.parameters(), lr=choice.lr, weight_decay=choice.weight_decay, **extra)
    for _ in range(how.epochs):
        for index in torch.randperm(len(x), generator=order).split(how.batch_size):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(torch.from_numpy(x)[index]), torch.from_numpy(y)[index]).backward()
            optimiser.step()
    return net


def test_updates_in_pieces_are_the_same(base: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    many, probes = sets(3, 7), digits().x[:4]
    whole = answers_after(base, many, recipe(), probes, 0)
    size = sum(p.numel() for p in base.parameters())
    monkeypatch.setattr("midguard.engine.updates._MEMORY", 4 * 8 * size * 2)
    np.testing.assert_allclose(answers_after(base, many, recipe(), probes, 0), whole, atol=1e-6)


def test_convolutions_are_updated_as_well() -> None:
    torch.manual_seed(0)
    net = Cnn((4,), (8,)).build((1, 8, 8), 10)
    how, many, probes = recipe(architecture=Cnn((4,), (8,))), sets(4, 3), digits().x[:5]
    found = answers_after(net, many, how, probes, 1)
    alone = by_hand(net, many.x[2], many.y[2], how, 1)
    np.testing.assert_allclose(found[2], alone(torch.from_numpy(probes)).detach().numpy(), atol=1e-4)


def test_the_model_before_stays_as_it_is(base: torch.nn.Module) -> None:
    before = {name: p.clone() for name, p in base.named_parameters()}
    answers_after(base, sets(2, 3), recipe(lr=1.0), digits().x[:2], 0)
    updated(base, sets(2, 1).x[0], sets(2, 1).y[0], recipe(lr=1.0), 0)
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())


def test_an_update_that_diverges_or_is_defended_is_not_imitated(base: torch.nn.Module) -> None:
    with pytest.raises(AttackError, match="not finite"):
        answers_after(base, sets(8, 2), recipe(lr=1e30, epochs=9), digits().x[:2], 0)
    unlike = {
        "a defense": recipe(defense=DpSgd(noise_multiplier=1.0, delta=1e-5)),
        "augmentation": recipe(augmentation=Augmentation(shift=1)),
        "a schedule": recipe(schedule=Schedule("cosine")),
        "frozen layers": recipe(freeze=("hidden1*",)),
        "dropout": recipe(architecture=Mlp((32,), dropout=0.5)),
    }
    for words, how in unlike.items():
        with pytest.raises(NotMeasurable, match=f"with {words}"):
            answers_after(base, sets(2, 2), how, digits().x[:2], 0)
        with pytest.raises(NotMeasurable, match=f"with {words}"):
            updated(base, sets(2, 2).x[0], sets(2, 2).y[0], how, 0)


# --- what is learnt from them: the traps of the published code


def test_divergence_is_summed_over_classes() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    q = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    assert float(readers.kl_divergence(q.log(), p)) == pytest.approx(np.log(2), rel=1e-6)  # not a third of it


def test_the_discriminator_can_be_sure() -> None:
    net = readers.discriminator(4)
    with torch.no_grad():
        net[-1].weight.mul_(1e4)
        said = torch.sigmoid(net(10 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))))
    assert float(said.min()) < 0.05  # a tanh before the sigmoid would end at .27 and .73
    assert float(said.max()) > 0.95


def test_best_of_many_by_hand() -> None:
    real = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    drawn = torch.tensor([[[0.0, 1.0], [1.0, 0.9], [5.0, 5.0]]])
    expected = ((0 + 1) / 2 + (0 + 0.01) / 2) / 2  # each real record's nearest, per value; the stray one costs nothing
    assert float(readers.best_of_many(real, drawn)) == pytest.approx(expected, abs=1e-6)


def test_a_change_is_before_less_after_whatever_its_size(base: torch.nn.Module) -> None:
    asked = target_of(base, base, 1)
    before, after = np.array([[0.7, 0.2, 0.1]] * 2), np.array([[0.6, 0.3, 0.1]] * 2)
    change = change_of(asked, before, after)
    np.testing.assert_allclose(change[:3], np.log(before[0] / after[0]), atol=1e-9)
    np.testing.assert_allclose(change[6:], np.sqrt(2) * np.log(before[0] / after[0]), atol=1e-9)
    scale = readers.Scale.of(torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).double())
    reads = [scale.read(torch.from_numpy(k * change)[None]) for k in (1.0, 1e-6)]
    torch.testing.assert_close(reads[0][:, :-1], reads[1][:, :-1])  # the direction is the same
    assert float(reads[0][0, -1]) > float(reads[1][0, -1])  # the length is told beside it


# --- the attack


@pytest.mark.parametrize("access", [Access.RELEASE, pytest.param(Access.WEIGHTS, marks=pytest.mark.calibrate)])
def test_single_labels_are_told_and_records_come_closer(base: torch.nn.Module, access: Access) -> None:
    """40 updates by one record each: chance is a tenth of the labels, standard error .047."""
    truth, adversary = sets(1, 40, seed=5), dataclasses.replace(SMALL, updates=800)
    asked = target_of(base, base, 1, access)
    shadow = adversary.shadow(asked, 0, lambda _: None)
    scale = readers.Scale.of(torch.from_numpy(shadow.changes))
    before = asked.query(shadow.probes)
    changes = []
    for x, y in zip(truth.x, truth.y, strict=True):
        after = target_of(base, updated(base, x, y, recipe(), 1), 1, access).query(shadow.probes)
        changes.append(change_of(asked, before, after))
    read = scale.read(torch.from_numpy(np.stack(changes)))
    told = adversary.labels(shadow, scale, 0, read).argmax(axis=1)
    right = (told == truth.y[:, 0]).mean()
    assert right > 0.6
    shuffled = (np.roll(told, 1) == truth.y[:, 0]).mean()
    assert shuffled < 0.1 + 4 * 0.047
    images = adversary.records(shadow, scale, 0, read, lambda _: None)[:, 0]
    flat, mean = truth.x.reshape(40, -1), digits().x[700:].reshape(-1, 64).mean(axis=0)
    assert ((images - flat) ** 2).mean() < ((mean - flat) ** 2).mean()
    assert ((np.roll(images, 1, axis=0) - flat) ** 2).mean() > ((mean - flat) ** 2).mean()


@pytest.mark.calibrate
def test_the_shares_of_several_are_told_better_than_by_an_even_guess() -> None:
    """Updates by six records of two classes: which two. The model has not learnt its records by heart."""
    base = fit(recipe(epochs=2), digits().take(np.arange(400)), 0).module.eval().requires_grad_(False)
    pool, rng = digits(), np.random.default_rng(3)
    by_class = [np.flatnonzero(pool.y[400:700] == c) + 400 for c in range(10)]
    adversary = dataclasses.replace(SMALL, updates=500)
    asked = target_of(base, base, 6)
    shadow = adversary.shadow(asked, 0, lambda _: None)
    scale, before = readers.Scale.of(torch.from_numpy(shadow.changes)), asked.query(shadow.probes)
    mass = []
    for _ in range(10):
        pair = rng.choice(10, 2, replace=False)
        index = np.concatenate([rng.choice(by_class[c], 3, replace=False) for c in pair])
        after = target_of(base, updated(base, pool.x[index], pool.y[index], recipe(), 1), 6).query(shadow.probes)
        read = scale.read(torch.from_numpy(change_of(asked, before, after))[None])
        shares = adversary.labels(shadow, scale, 0, read)[0]
        assert shares.sum() == pytest.approx(1)
        mass.append(shares[pair].sum())
    assert np.mean(mass) > 0.3  # an even guess puts .2 on them


def planted_sets(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three of six lamps, each lit as strongly as nobody can guess; a change that tells all of it, rotated."""
    rng = np.random.default_rng(seed)
    y = np.stack([rng.choice(6, 3, replace=False) for _ in range(count)])
    records = np.zeros((count, 3, 6))
    np.put_along_axis(records, y[..., None], rng.uniform(0, 1, (count, 3, 1)), axis=2)
    changes = records.sum(axis=1) @ np.random.default_rng(9).normal(size=(6, 12))
    return changes, records.astype(np.float32), y


def test_several_records_are_told_where_the_change_gives_them_away() -> None:
    """60 sets: the error is less than half of the mean record's, and that of another set's change more."""
    changes, records, y = planted_sets(800, 0)
    other_changes, truth, _ = planted_sets(60, 1)
    shadow = readers.Shadow(np.zeros((1, 6), np.float32), changes, records, y, 6)
    scale = readers.Scale.of(torch.from_numpy(changes))
    adversary = UpdateLeaks(rounds=20, width=64, samples=100)
    told = adversary.records(shadow, scale, 0, scale.read(torch.from_numpy(other_changes)), lambda _: None)

    def error(guesses: np.ndarray) -> float:
        every = [((matched(guess, real, 3) - real) ** 2).mean() for guess, real in zip(guesses, truth, strict=True)]
        return float(np.mean(every))

    mean = np.broadcast_to(records.mean(axis=(0, 1)), truth.shape)
    assert 0 < 2 * error(told) < error(mean) < error(np.roll(told, 1, axis=0))


def test_an_update_that_changed_nothing_tells_nothing(base: torch.nn.Module) -> None:
    quick = dataclasses.replace(SMALL, updates=100, epochs=10)
    guess, other = (quick.reconstruct_update(target_of(base, base, 1), 0, lambda _: None) for _ in range(2))
    np.testing.assert_array_equal(guess.images, other.images)
    assert np.isfinite(guess.images).all()
    assert guess.labels.max() < 0.9


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("exposes", [Exposure.LOGITS, Exposure.PROBABILITIES, Exposure.LABEL])
def test_the_contract(base: torch.nn.Module, size: int, exposes: Exposure) -> None:
    quick = dataclasses.replace(SMALL, updates=40, epochs=3, rounds=1)
    assert isinstance(quick, UpdateInversion)
    after = updated(base, sets(size, 1).x[0], sets(size, 1).y[0], recipe(), 0)
    asked, done = target_of(base, after, size, exposes=exposes), list[float]()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    guess = quick.reconstruct_update(asked, 3, done.append)
    assert guess.images.shape == (size, 1, 8, 8)
    assert guess.images.min() >= 0
    assert guess.images.max() <= 1
    assert guess.labels.shape == (10,)
    assert asked.queries + asked.previous.target.queries == quick.queries(size, 1097) == 60
    assert done[-1] == 1.0
    assert (np.diff(done) >= -1e-9).all()
    again = quick.reconstruct_update(target_of(base, after, size, exposes=exposes), 3, lambda _: None)
    np.testing.assert_array_equal(guess.images, again.images)
    np.testing.assert_array_equal(guess.labels, again.labels)
    assert torch.equal(state[0], torch.get_rng_state())
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])


def test_it_stops_without_what_it_needs(base: torch.nn.Module) -> None:
    asked = target_of(base, base, 1)
    asked.previous = None
    with pytest.raises(AttackError, match="before its last update"):
        SMALL.reconstruct_update(asked, 0, lambda _: None)
    asked = target_of(base, base, 1)
    asked.auxiliary = digits().take(np.arange(35))
    with pytest.raises(AttackError, match="at least 40 auxiliary records"):
        SMALL.reconstruct_update(asked, 0, lambda _: None)
    asked = target_of(base, base, 1)
    asked.previous = dataclasses.replace(asked.previous, recipe=None)
    with pytest.raises(AttackError, match="recipe"):
        SMALL.reconstruct_update(asked, 0, lambda _: None)


@pytest.mark.parametrize("wrong", [{"updates": 0}, {"probes": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"realism": -1.0}])
def test_refuses_parameters_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))}"):
        UpdateLeaks(**wrong)


# --- the subject and the gate


@pytest.fixture
def with_previous(careless: Path) -> Callable[..., Path]:
    """The careless model as the update of an earlier one by some of its members."""

    def write(size: int = 8, one_class: bool = False, **changes: str) -> Path:
        state = torch.load(careless / "model.pt", weights_only=True)
        with np.load(careless / "members.npz") as file:
            x, y = file["x"], file["y"]
        if one_class:
            x, y = x[y == 3], y[y == 3]
        np.savez(careless / "update.npz", x=x[:size], y=y[:size])
        np.savez(careless / "strange.npz", x=x[:size] * 0.5, y=y[:size])
        earlier = {name: 0.95 * tensor for name, tensor in state.items()}
        torch.save(earlier, careless / "previous.pt")
        sha = hashlib.sha256((careless / "previous.pt").read_bytes()).hexdigest()
        fields = {"file": "previous.pt", "sha256": sha, "records": "{file: update.npz}"} | changes
        written = ", ".join(f"{name}: {value}" for name, value in fields.items() if value)
        text = (careless / "model.yaml").read_text()
        assert "release: {exposes: probabilities}" in text
        text = text.replace(
            "release: {exposes: probabilities}", f"release: {{exposes: probabilities, previous: {{{written}}}}}"
        )
        (careless / "model.yaml").write_text(text)
        return careless / "model.pt"

    return write


def test_the_previous_version_is_read_and_checked(with_previous: Callable[..., Path]) -> None:
    subject = load_subject(with_previous())
    assert subject.previous is not None
    assert subject.previous.recipe is not None  # the training's, where the update has none of its own
    records = load_records(subject)
    assert records.update is not None
    assert len(records.update) == 8
    assert len(list(load_previous(subject).parameters())) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "model.pt", "sha256": ""}, "is this model"),
        ({"file": "missing.pt"}, "there is no file"),
        ({"sha256": "0" * 64}, "is not the one that this subject describes"),
        ({"records": ""}, "records"),
        ({"recpie": "recipe.yaml"}, "did you mean 'recipe'"),
    ],
)
def test_a_previous_version_that_is_not_acceptable_is_refused(
    with_previous: Callable[..., Path], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_subject(with_previous(**changes))


def test_an_update_by_records_that_are_no_members_is_refused(with_previous: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="8 of 8 records of the update are not among the members"):
        load_records(load_subject(with_previous(records="{file: strange.npz}")))


def test_a_previous_version_of_another_network_is_refused(with_previous: Callable[..., Path]) -> None:
    model = with_previous(sha256="")
    torch.save({"weight": torch.zeros(2)}, model.with_name("previous.pt"))
    subject = load_subject(model)
    with pytest.raises(InputError, match=r"previous\.pt"):
        load_previous(subject)


LEAKS = "{name: inversion.update_leaks, updates: 20, probes: 30, epochs: 2, rounds: 1, width: 16, samples: 50}"
REQUIREMENT = f"id: update, measure: inversion.distance, min: 0.75, attacks: [{LEAKS}]"


def test_without_a_previous_version_nothing_is_shown(
    careless: Path, write_policy: Callable[..., Path], midguard: Callable[..., object]
) -> None:
    ended = midguard("check", write_policy(REQUIREMENT), careless / "model.pt")
    assert ended.code == 3  # type: ignore[attr-defined]
    assert "spec.release.previous" in " ".join(ended.out.split())  # type: ignore[attr-defined]


def test_an_update_that_is_told_fails(
    with_previous: Callable[..., Path],
    write_policy: Callable[..., Path],
    midguard: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An adversary who reads off whichever snapshot he is shown what it learnt."""
    from midguard.engine import inverting
    from midguard.engine.attack import UpdateGuess

    model = with_previous(size=60, one_class=True)
    with np.load(model.with_name("update.npz")) as file:
        secrets = {"update": (file["x"], file["y"])}
    deal = inverting._another_update

    def dealt(*arguments: object) -> Records:
        found = deal(*arguments)  # type: ignore[arg-type]
        secrets["another"] = (found.x, found.y)
        return found

    real = next(load_module(load_subject(model)).parameters()).detach()

    def read(self: UpdateLeaks, target: Target, seed: int, progress: Callable[[float], None]) -> UpdateGuess:
        weight = next(target._module().parameters())
        x, y = secrets["update" if torch.equal(weight, real) else "another"]
        return UpdateGuess(x[::-1].copy(), np.bincount(y, minlength=10) / len(y))

    monkeypatch.setattr(inverting, "_another_update", dealt)
    monkeypatch.setattr(UpdateLeaks, "reconstruct_update", read)
    policy = write_policy(
        f"id: update, measure: inversion.distance, at: {{quantile: 0.5}}, min: 0.75, attacks: [{LEAKS}]",
        f"id: labels, measure: inversion.update_labels, max: 0.02, attacks: [{LEAKS}]",
    )
    ended = midguard("check", policy, model, "--format", "json")
    found = {finding["id"]: finding["status"] for finding in json.loads(ended.out)["findings"]}  # type: ignore[attr-defined]
    assert ended.code == 1  # type: ignore[attr-defined]
    assert found == {"update": "fail", "labels": "fail"}
    assert len(set(secrets["another"][1])) == 3  # the twin's update is of few classes, which no usual shares tell


def test_shares_that_are_no_numbers_pass_nothing(
    with_previous: Callable[..., Path],
    write_policy: Callable[..., Path],
    midguard: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy allows nearly anything, so that only what was not measured can keep it from passing."""
    from midguard.engine.attack import UpdateGuess

    def broken(self: UpdateLeaks, target: Target, seed: int, progress: Callable[[float], None]) -> UpdateGuess:
        return UpdateGuess(np.zeros((8, 1, 8, 8), np.float32), np.full(10, np.nan))

    monkeypatch.setattr(UpdateLeaks, "reconstruct_update", broken)
    policy = write_policy(f"id: labels, measure: inversion.update_labels, max: 0.99, attacks: [{LEAKS}]")
    ended = midguard("check", policy, with_previous(), "--format", "json")
    (found,) = json.loads(ended.out)["findings"]  # type: ignore[attr-defined]
    assert (ended.code, found["status"]) == (4, "error")  # type: ignore[attr-defined]


def test_the_gate_compares_two_snapshots(
    with_previous: Callable[..., Path], write_policy: Callable[..., Path], midguard: Callable[..., object]
) -> None:
    ended = midguard("check", write_policy(REQUIREMENT), with_previous(), "--format", "json")
    assert ended.code in {0, 1, 3}  # type: ignore[attr-defined]
    evidence = json.loads(ended.out)  # type: ignore[attr-defined]
    (attack,) = evidence["attacks"]
    assert attack["status"] == "ran"
    assert attack["threat"]["goal"] == "update-reconstruction"
    rows = {row["name"]: row for row in attack["inversion"]["rows"]}
    assert {"this model", "leaky twin", "null", "class mean"} <= set(rows)
    assert rows["this model"]["targets"] == 8
    assert rows["null"]["reason"] == "what is told of another update, held against this one's records"
    assert evidence["subject"]["previous"]["update"]["records"] == 8
