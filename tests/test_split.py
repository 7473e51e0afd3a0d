"""Split inference: what passes by leaves noised, no attack gets round it, and what can be made of it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

import midguard
from midguard.attacks.inversion.split import Split
from midguard.engine import registry
from midguard.engine.attack import Attack, RecordInversion
from midguard.engine.check import prepare
from midguard.engine.errors import AccessError, AttackError, InputError, NotMeasurable
from midguard.engine.exposed import Passage, check_layer, exposed_activations, noised_logits
from midguard.engine.inverting import SUBJECT, record_images
from midguard.engine.run import predictions
from midguard.engine.subject import Task, load_module, load_subject, make_target
from midguard.engine.target import Access, Exposure, Noise, NoiseKind, NoiseSource, Records, Release, Target

from .conftest import Ended

TASK = Task("classification", 10, (1, 8, 8), (0.0, 1.0))
KINDS = {
    NoiseKind.UNIFORM: stats.uniform(0, 0.3),
    NoiseKind.GAUSSIAN: stats.norm(0, 0.3),
    NoiseKind.LAPLACE: stats.laplace(0, 0.3),
}
#: Few epochs and steps, where it is not the quality that is looked at.
SMALL = Split(hidden=(32,), epochs=3, steps=5, repeats=4)
Writer = Callable[..., Path]
Gate = Callable[..., Ended]


def digits(start: int, count: int) -> Records:
    found = load_digits()
    x = (found.images[start : start + count, None] / 16).astype(np.float32)
    return Records(x, found.target[start : start + count].astype(np.int64))


OWNED, VICTIMS = digits(0, 600), digits(1000, 100)


def network(width: int = 40, seed: int = 0) -> nn.Sequential:
    """A client of one dense layer, cut behind its tanh; the server does the rest."""
    net = nn.Sequential()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)]
    for name, part in zip(("flat", "dense", "cut", "top"), parts, strict=True):
        net.add_module(name, part)
    return net.eval().requires_grad_(False)


def release(scale: float = 0.0, layer: str = "cut", **noise: Any) -> Release:
    kind = noise.pop("kind", NoiseKind.LAPLACE)
    return Release(Exposure.ACTIVATIONS, layer=layer, noise=Noise(kind, scale, **noise) if scale else None)


def target(shown: Release, net: nn.Module | None = None, access: Access = Access.RELEASE, seed: int = 5) -> Target:
    module = network() if net is None else net
    return make_target(TASK, shown, access, OWNED, lambda: module, noise_seed=seed)


def reconstruct(attack: Split, at: Target, victims: Records = VICTIMS, seed: int = 0) -> NDArray[np.float32]:
    looks = attack.repeats if at.release.noisy else 1
    outputs = np.stack([at.observe(victims.x) for _ in range(looks)])
    outputs.setflags(write=False)
    at.queries = 0
    return attack.reconstruct_records(at, outputs, seed, lambda _: None)


def error(found: NDArray[np.float32], truth: NDArray[np.float32] = VICTIMS.x) -> float:
    return float(((found.astype(np.float64) - truth) ** 2).mean())


#: Of the mean record of the adversary's own, and of the mean record of the true class.
GLOBAL = error(np.broadcast_to(OWNED.x.mean(axis=0), VICTIMS.x.shape))
CLASS = error(np.stack([OWNED.x[OWNED.y == label].mean(axis=0) for label in VICTIMS.y]))


# --- what passes by --------------------------------------------------------------------------------------------------


def test_what_passes_without_noise_is_the_layer_s_output() -> None:
    net = network()
    with torch.no_grad():
        expected = net[:3](torch.from_numpy(VICTIMS.x)).numpy()
    assert np.array_equal(target(release(), net).observe(VICTIMS.x), expected)
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 10)).eval()
    with torch.no_grad():
        expected = convolution[0](torch.from_numpy(VICTIMS.x)).flatten(1).numpy()
    found = exposed_activations(convolution, release(layer="0"), VICTIMS.x, NoiseSource())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_is_noised_at_every_coordinate_as_the_release_says(kind: NoiseKind) -> None:
    # Three tests at 1e-4, their seeds fixed.
    clean = target(release()).observe(VICTIMS.x)
    at = target(release(0.3, kind=kind))
    added = at.observe(VICTIMS.x) - clean
    assert (added != 0).all()
    assert stats.kstest(added.ravel(), KINDS[kind].cdf).pvalue > 1e-4
    assert (at.observe(VICTIMS.x) - clean != added).all()  # drawn anew, though the records were seen before


def test_records_that_change_in_place_pass_anew() -> None:
    at, x = target(release()), VICTIMS.x.copy()
    before = at.observe(x)
    x[:] = x[::-1].copy()
    assert np.array_equal(at.observe(x), before[::-1])


def test_what_was_given_away_is_a_copy() -> None:
    at = target(release())
    first = at.observe(VICTIMS.x)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(at.observe(VICTIMS.x), kept)


def test_noise_of_a_record_does_not_average_out() -> None:
    clean = target(release()).observe(VICTIMS.x)

    def missed(per: Any) -> float:
        at = target(release(0.3, per=per))
        return float(((np.mean([at.observe(VICTIMS.x) for _ in range(50)], axis=0) - clean) ** 2).mean())

    assert missed("query") == pytest.approx(2 * 0.3**2 / 50, rel=0.2)
    assert missed("record") == pytest.approx(2 * 0.3**2, rel=0.2)


def test_whoever_watches_is_counted_and_answers_are_not_given() -> None:
    at = target(release(0.3))
    at.observe(VICTIMS.x)
    assert at.queries == len(VICTIMS)
    with pytest.raises(AccessError):
        at.query(VICTIMS.x)


# --- no way round it -------------------------------------------------------------------------------------------------

ATTACKS = sorted(path for path in (Path(midguard.__file__).parent / "attacks").rglob("*.py"))
#: What an attack may not name: with it, it could reach what the release keeps back.
FORBIDDEN_MODULES = ("exposed", "run", "controls", "subject", "judges", "check", "store")
FORBIDDEN_NAMES = frozenset({"make_target", "Passage", "gc", "inspect"})
#: What of a target, and of what lets records pass, is nobody's.
PRIVATE = frozenset(f.name for kind in (Target, Passage) for f in dataclasses.fields(kind) if f.name.startswith("_"))
REFLECTION = frozenset({"getattr", "setattr", "vars", "object"})


def trespasses(tree: ast.AST) -> list[str]:
    """Where a source reaches into a target, or for what makes one."""
    return [f"{node.lineno}: {ast.unparse(node)[:60]}" for node in ast.walk(tree) if trespass(node)]  # type: ignore[attr-defined]


def trespass(node: ast.AST) -> bool:
    found = False
    match node:
        case ast.Attribute(value=ast.Name(id="target") | ast.Attribute(attr="target"), attr="noise"):
            found = True
        case ast.Attribute(value=owner, attr=name):
            found = name in PRIVATE or (name.startswith("_") and isinstance(owner, ast.Name) and owner.id == "target")
        case ast.ImportFrom(module=str(module), names=names):
            found = module.split(".")[-1] in FORBIDDEN_MODULES or any(n.name in FORBIDDEN_NAMES for n in names)
        case ast.Import(names=names):
            found = any(n.name in FORBIDDEN_NAMES for n in names)
        case ast.Call(func=ast.Name(id="replace" | "Target")) | ast.Call(func=ast.Attribute(attr="replace")):
            found = any(word.arg in {"release", "noise"} for word in node.keywords)
        case ast.Call(func=ast.Name(id=called), args=[ast.Name(id="target"), *_]):
            found = called in REFLECTION
    return found


def test_the_names_that_are_guarded_are_those_of_a_target() -> None:
    assert {"_logits", "_module", "_passing", "_last"} <= PRIVATE


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
def test_no_attack_reaches_into_its_target(path: Path) -> None:
    assert not trespasses(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "target._passing(x, y, source)",
        "target._logits(x)",
        "target.noise.seed",
        "from ...engine.exposed import exposed_activations",
        "NoiseSource(self.target.noise.seed)",
        "from dataclasses import replace\nreplace(target, release=target.release.opened()).query(x)",
        "getattr(target, '_passing')",
        "import gc",
    ],
)
def test_the_guard_sees_whoever_reaches_into_a_target(source: str) -> None:
    assert trespasses(ast.parse(source))


WATCHING = [
    name for name in registry.names("attacks") if Exposure.ACTIVATIONS in registry.load("attacks", name).threat.watches
]


def quick(name: str) -> Attack:
    """The attack with few epochs, steps and looks, as far as it has those."""
    attack = registry.load("attacks", name)()
    wanted = {"epochs": 3, "steps": 5, "repeats": 2}
    return dataclasses.replace(attack, **{k: v for k, v in wanted.items() if hasattr(attack, k)})


def test_there_is_an_attack_to_watch() -> None:
    assert "inversion.split" in WATCHING


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("name", WATCHING)
def test_every_array_of_a_victim_that_an_attack_is_given_is_noised(
    name: str, access: Access, careless: Path, write_policy: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the run itself: what `reconstruct_records` gets of the victims, against a forward pass of its own."""
    (careless / "model.yaml").write_text(
        (careless / "model.yaml")
        .read_text()
        .replace(
            "release: {exposes: probabilities}",
            "release: {exposes: activations, layer: activation1, noise: {kind: laplace, scale: 0.1}}",
        )
    )
    settings = {k: getattr(quick(name), k) for k in ("epochs", "steps", "repeats")}
    policy = write_policy(
        f"id: far, measure: inversion.distance, min: 0.5, attacks: [{{name: {name}, {str(settings)[1:-1]}}}]".replace(
            "'", ""
        ),
        access=str(access),
    )
    bench = prepare(policy, careless / "model.pt", store=careless / "store", seed=1)
    (job,) = bench.plan.jobs
    given: list[NDArray[np.float64]] = []
    attack = type(job.attack)
    whole = attack.reconstruct_records

    def spied(self: Any, at: Target, outputs: NDArray[np.float64], seed: int, progress: Any) -> NDArray[np.float32]:
        given.append(outputs.copy())
        return whole(self, at, outputs, seed, progress)

    monkeypatch.setattr(attack, "reconstruct_records", spied)
    record_images(bench, job, SUBJECT, lambda _: None)
    victims = bench.victims(job.targets)
    with torch.no_grad():
        clean = bench.module[:3](torch.from_numpy(victims.x)).numpy()
    (outputs,) = given
    seen = outputs[:, : len(victims)]  # behind them stand records that the model never saw
    assert seen.shape == (settings["repeats"], *clean.shape)
    assert (seen != clean).all()
    assert (seen[0] != seen[1]).all()
    assert np.abs(seen.mean(axis=0) - clean).mean() < 0.2  # and it is these victims' activations


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("name", WATCHING)
def test_behind_noise_that_drowns_everything_no_attack_beats_no_model(name: str, access: Access) -> None:
    found = reconstruct(quick(name), target(release(1e6), access=access))  # type: ignore[arg-type]
    assert error(found) > 0.97 * CLASS


def test_an_attack_that_went_round_the_noise_would_be_seen() -> None:
    # The same, handed the clean activations by who may not: what the test above would look like if there were a way.
    drowned = target(release(1e6))
    clean = exposed_activations(network(), release(), VICTIMS.x, NoiseSource())
    drowned._passing = lambda x, y, source: exposed_activations(network(), release(), x, source)
    attack = dataclasses.replace(SMALL, repeats=1)
    assert error(attack.reconstruct_records(drowned, clean[None], 0, lambda _: None)) < 0.5 * CLASS


@pytest.mark.parametrize("name", WATCHING)
def test_no_attack_leaves_an_ear_at_the_model(name: str) -> None:
    # A hook that stayed would hear the next victims pass, before the noise.
    net = network()
    reconstruct(quick(name), target(release(0.2), net, Access.WEIGHTS))  # type: ignore[arg-type]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


# --- what a split model is worth -------------------------------------------------------------------------------------


def test_the_server_answers_from_what_passed_by() -> None:
    net, shown = network(), release(0.5)
    given = exposed_activations(net, shown, VICTIMS.x, NoiseSource(3))
    with torch.no_grad():
        expected = net[3:](torch.from_numpy(given).float()).numpy()
        clean = net(torch.from_numpy(VICTIMS.x)).numpy()
    np.testing.assert_allclose(noised_logits(net, shown, VICTIMS.x, NoiseSource(3)), expected, rtol=1e-5)
    np.testing.assert_allclose(noised_logits(net, release(), VICTIMS.x, NoiseSource(3)), clean, rtol=1e-5)


class Round(nn.Module):
    """A layer that the record gets round."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.inner, self.top = nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.flat(x) + self.inner(self.flat(x)))  # type: ignore[no-any-return]


def test_a_layer_that_the_record_gets_round_is_no_place_to_split() -> None:
    with pytest.raises(NotMeasurable, match="around the layer 'inner'"):
        noised_logits(Round().eval(), release(0.5, "inner"), VICTIMS.x, NoiseSource())


def with_release(folder: Path, written: str) -> Path:
    file = folder / "model.yaml"
    file.write_text(file.read_text().replace("release: {exposes: probabilities}", f"release: {written}"))
    assert written in file.read_text()
    return folder / "model.pt"


def test_the_accuracy_of_a_split_model_is_measured_behind_its_noise(careless: Path, write_policy: Writer) -> None:
    def accuracy(written: str) -> float:
        model = with_release(careless, written)
        bench = prepare(
            write_policy("id: accuracy, measure: utility.accuracy, min: 0.1"), model, store=careless / "s", seed=1
        )
        (careless / "model.yaml").write_text(before)
        found = predictions(bench)
        return float((found.labels == found.predicted).mean())

    before = (careless / "model.yaml").read_text()
    layer = "exposes: activations, layer: activation1"
    plain = accuracy("{exposes: logits}")
    assert accuracy(f"{{{layer}}}") == plain
    noised = [accuracy(f"{{{layer}, noise: {{kind: laplace, scale: {b}}}}}") for b in (0.5, 1000.0)]
    assert noised[0] < plain
    assert noised[1] < 0.2  # a guess among ten classes is right about .1 of 593


# --- layers that are none --------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """The same layer used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.again, self.idle, self.top = nn.Flatten(), nn.Tanh(), nn.Tanh(), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.again(self.again(self.flat(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("agian", "did you mean 'again'"),
        ("", "has no layer"),
        ("again", "runs 2 times"),
        ("idle", "runs 0 times"),
    ],
)
def test_what_gives_no_activation_of_each_record_is_no_layer(layer: str, says: str) -> None:
    with pytest.raises(LookupError, match=says):
        check_layer(Twice(), layer, (1, 8, 8))
    check_layer(Twice(), "flat", (1, 8, 8))


def test_an_unknown_layer_is_refused_with_its_place_before_anything_runs(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    model = with_release(careless, "{exposes: activations, layer: activation}")
    with pytest.raises(InputError) as caught:
        load_module(load_subject(model))
    line = next(n for n, text in enumerate((careless / "model.yaml").read_text().splitlines(), 1) if "release:" in text)
    assert f"model.yaml:{line}:" in str(caught.value)
    ended = midguard("check", write_policy("id: far, measure: inversion.distance, min: 0.5"), model)
    assert ended.code == 2
    assert "did you mean 'activation1'" in ended.err


# --- declarations and bad input --------------------------------------------------------------------------------------


def test_declares_what_it_needs() -> None:
    attack = Split()
    assert isinstance(attack, RecordInversion)
    for access in Access:
        seen = attack.threat.obstacle(access, Exposure.LOGITS, True, released=Exposure.ACTIVATIONS)
        assert seen == ""
        assert "auxiliary" in attack.threat.obstacle(access, Exposure.LOGITS, False, released=Exposure.ACTIVATIONS)
        assert "it needs activations" in attack.threat.obstacle(access, Exposure.LOGITS, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoder": "gan"},
        {"hidden": (8, 0)},
        {"epochs": 0},
        {"batch": 0},
        {"repeats": 0},
        {"victims": 0},
        {"steps": -1},
        {"lr": 0.0},
        {"search_lr": float("nan")},
        {"total_variation": -1.0},
        {"total_variation": float("nan")},
        {"validation": 0.6},
    ],
    ids=str,
)
def test_refuses_parameters_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected.*{next(iter(wrong))}"):
        Split(**wrong)


@pytest.mark.parametrize("owned", [None, OWNED.take(np.arange(9))], ids=["none", "nine"])
def test_stops_without_records_to_learn_from(owned: Records | None) -> None:
    at = dataclasses.replace(target(release()), auxiliary=owned)
    with pytest.raises(AttackError, match="at least 10 auxiliary records"):
        reconstruct(SMALL, at)


def test_stops_where_the_layer_is_not_finite() -> None:
    at = target(release())
    outputs = at.observe(VICTIMS.x)[None]
    at._passing = lambda x, y, source: np.full((len(x), 40), np.nan)
    with pytest.raises(AttackError, match="not finite on auxiliary records"):
        SMALL.reconstruct_records(at, outputs, 0, lambda _: None)


def test_stops_where_a_convolution_has_no_image() -> None:
    flat = Records(OWNED.x.reshape(600, 64), OWNED.y)
    at = dataclasses.replace(target(release()), shape=(64,), auxiliary=flat)
    with pytest.raises(AttackError, match="conv needs images"):
        dataclasses.replace(SMALL, decoder="conv").reconstruct_records(at, np.zeros((1, 2, 40)), 0, lambda _: None)


def test_an_activation_that_is_not_finite_is_reconstructed_as_nan() -> None:
    at = target(release())
    outputs = at.observe(VICTIMS.x[:3])[None]
    outputs[0, 1, 7] = np.inf
    found = SMALL.reconstruct_records(at, outputs, 0, lambda _: None)
    assert np.isnan(found).reshape(3, -1).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(found[[0, 2]]).all()


# --- conduct ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", Access)
def test_the_same_seed_gives_the_same_records_and_leaves_global_randomness_alone(access: Access) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, again, other = (reconstruct(SMALL, target(release(0.2), access=access), seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize("scale", [0.0, 0.2])
@pytest.mark.parametrize("access", Access)
def test_costs_what_it_says(scale: float, access: Access) -> None:
    net, passed = network(), [0]
    at = target(release(scale), net, access)
    outputs = np.stack([at.observe(VICTIMS.x) for _ in range(SMALL.repeats if scale else 1)])
    at.queries = 0
    net.register_forward_pre_hook(lambda _, given: passed.__setitem__(0, passed[0] + len(given[0])))
    SMALL.reconstruct_records(at, outputs, 0, lambda _: None)
    looks = SMALL.repeats if scale else 1
    announced = dataclasses.replace(SMALL, repeats=looks).queries(len(VICTIMS), len(OWNED))
    assert at.queries == len(OWNED) * looks
    if access is Access.RELEASE:
        assert at.queries <= announced
    else:  # the records of his own that pass again are counted, and need no new pass
        searched = passed[0] - len(OWNED)
        assert 0 < searched <= announced - at.queries


def test_progress_only_moves_forward_and_arrives() -> None:
    done: list[float] = []
    at = target(release(0.2), access=Access.WEIGHTS)
    outputs = np.stack([at.observe(VICTIMS.x) for _ in range(4)])
    SMALL.reconstruct_records(at, outputs, 0, done.append)
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_records_stay_within_their_bounds() -> None:
    wide = Task("classification", 10, (1, 8, 8), (-3.0, 5.0))
    owned = Records(OWNED.x * 8 - 3, OWNED.y)
    at = make_target(wide, release(), Access.WEIGHTS, owned, network)
    found = SMALL.reconstruct_records(at, 3 * at.observe(VICTIMS.x)[None], 0, lambda _: None)
    assert found.min() >= -3
    assert found.max() <= 5
    assert found.max() > 1  # on the scale of the records


# --- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", Access)
def test_a_layer_that_is_the_record_gives_the_record(access: Access) -> None:
    assert error(reconstruct(Split(), target(release(layer="flat"), access=access))) < 1e-4 * GLOBAL


def test_a_linear_layer_that_loses_nothing_gives_the_record() -> None:
    assert error(reconstruct(SMALL, target(release(layer="dense"), network(80)))) < 1e-4 * GLOBAL


def test_a_layer_that_is_always_the_same_gives_the_mean_record() -> None:
    net = network()
    net.dense.weight.zero_()  # type: ignore[union-attr,operator]
    for access in Access:
        found = reconstruct(SMALL, target(release(), net, access))
        np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-6)
        assert error(found) > 0.97 * CLASS
        assert error(found) == pytest.approx(GLOBAL, rel=0.05)


def test_who_holds_the_weights_comes_nearer() -> None:
    # A narrow tanh layer and few records of his own: the decoder has little to learn from, the search needs none.
    few = OWNED.take(np.arange(100))
    net = network(60)
    with torch.no_grad():
        net.dense.weight.mul_(6)  # type: ignore[union-attr,operator]
    attack = Split(hidden=(64,), epochs=15, steps=300)
    found = {
        access: error(reconstruct(attack, dataclasses.replace(target(release(), net, access), auxiliary=few)))
        for access in Access
    }
    assert found[Access.WEIGHTS] < 0.7 * found[Access.RELEASE]
    assert found[Access.RELEASE] < CLASS


def test_the_error_rises_with_the_noise_and_looks_win_it_back() -> None:
    attack = Split(hidden=(64,), epochs=8)
    once = dataclasses.replace(attack, repeats=1)
    clean = error(reconstruct(attack, target(release())))
    noised = [error(reconstruct(once, target(release(b)))) for b in (0.1, 0.3, 1.0)]
    assert clean < noised[0] < noised[1] < noised[2]
    averaged = error(reconstruct(attack, target(release(0.3))))
    assert averaged < noised[1] - 0.6 * (noised[1] - clean)


def test_looks_win_nothing_back_where_the_noise_is_the_record_s() -> None:
    attack = Split(hidden=(64,), epochs=8)
    fixed = error(reconstruct(attack, target(release(0.3, per="record"))))
    assert fixed > 1.3 * error(reconstruct(attack, target(release(0.3))))


def test_a_convolutional_decoder_reads_activations_too() -> None:
    attack = Split(decoder="conv", epochs=12)
    assert error(reconstruct(attack, target(release()))) < 0.8 * CLASS


# --- the gate --------------------------------------------------------------------------------------------------------

FAR = "id: far, measure: inversion.distance, at: {quantile: 0.5}, min: 0.75, attacks: [{name: inversion.split%s}]"
LITTLE = ", epochs: 5, steps: 20, repeats: 8"


@pytest.mark.parametrize("access", Access)
def test_a_layer_that_gives_records_away_fails(
    access: Access, careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    model = with_release(careless, "{exposes: activations, layer: hidden1}")
    ended = midguard("check", write_policy(FAR % LITTLE, access=str(access)), model)
    assert ended.code == 1, ended.out + ended.err


def test_noise_that_drowns_everything_never_fails(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    model = with_release(
        careless, "{exposes: activations, layer: hidden1, noise: {kind: laplace, scale: 100000.0, per: record}}"
    )
    ended = midguard("check", write_policy(FAR % LITTLE), model)
    assert ended.code in {0, 3}, ended.out + ended.err


def test_where_nothing_passes_by_it_is_not_run(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    ended = midguard("check", write_policy(FAR % ""), careless / "model.pt")
    assert ended.code == 3
    assert "it needs activations" in ended.out + ended.err
