"""Reference models: who is in which, the same ones however they are trained, nothing lost or stale in the store."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib._parallel_backends import LokyBackend

from midguard.engine import machine, registry, store
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.mnist_cnn import MnistCnn
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.ensembles._layers import layers
from midguard.engine.ensembles._memory import Footprint, built, footprint
from midguard.engine.ensembles.sequential import Sequential
from midguard.engine.errors import InputError, MidguardError
from midguard.engine.plan import derive
from midguard.engine.recipe import OptimizerChoice, Recipe
from midguard.engine.reference import (
    Cost,
    _cost,
    _layout,
    _processes,
    _train,
    complementary,
    estimate,
    samples,
    train_references,
)
from midguard.engine.reference._chunk import Chunk
from midguard.engine.reference._entry import BESIDE, identity
from midguard.engine.reference._progress import Clock, spoken
from midguard.engine.reference._trial import Choice, Trial
from midguard.engine.reference._work import Work
from midguard.engine.store import Store, pack
from midguard.engine.subject import Task
from midguard.engine.target import Exposure, Records, Release
from midguard.engine.training import fit

TASK = Task("classification", 3, (6,), (0.0, 1.0))
RECIPE = Recipe(Mlp((8,)), TASK, OptimizerChoice("sgd", 0.1, 0.9), epochs=2, batch_size=16)
RNG = np.random.default_rng(0)
POOL = Records(RNG.random((80, 6), dtype=np.float32), RNG.integers(0, 3, 80))
MASKS = complementary(80, 4, 0)
WIDE = Task("classification", 3, (200,), (0.0, 1.0))
BIG = Records(RNG.random((1500, 200), dtype=np.float32), RNG.integers(0, 3, 1500))
NETWORKS = registry.names("architectures")


def silent(text: str, share: float) -> None:
    """Nobody listens."""


def trained(folder: Path, recipe: Recipe = RECIPE, pool: Records = POOL, masks: Any = MASKS, **more: Any) -> Any:
    asked = {"seed": 5, "report": silent, "workers": 1} | more
    return train_references(recipe, pool, masks, store=Store(folder), **asked)


def entries(folder: Path) -> dict[str, Path]:
    """The models in a store: archives behind the digest; what is remembered beside them is JSON."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".writing-")]
    return {p.name: p for p in files if p.read_bytes()[32:34] == b"PK"}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Each model's file as the file system knows it: another one if it was written again."""
    return {name: (p.stat().st_ino, p.stat().st_mtime_ns) for name, p in entries(folder).items()}


@pytest.fixture(scope="module", autouse=True)
def code() -> Iterator[None]:
    """The code counts as the same throughout, whatever is edited while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "code_version", lambda: "today's")
        yield


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one way of training: the models do not depend on which are trained together."""
    monkeypatch.setattr(registry, "names", lambda kind: ("sequential",))


# Who is in which


@given(n=st.integers(1, 61), pairs=st.integers(0, 8), seed=st.integers(0, 2**48))
def test_every_record_is_in_half_of_the_models(n: int, pairs: int, seed: int) -> None:
    masks = complementary(n, 2 * pairs, seed)
    assert masks.shape == (2 * pairs, n)
    assert (masks.sum(axis=0) == pairs).all()
    assert (masks[0::2] != masks[1::2]).all()
    assert all(abs(2 * int(mask.sum()) - n) <= 1 for mask in masks)


@given(n=st.integers(1, 61), count=st.integers(0, 15), more=st.integers(0, 9), seed=st.integers(0, 2**48))
def test_more_models_leave_the_first_as_they_are(n: int, count: int, more: int, seed: int) -> None:
    masks = complementary(n, count, seed)
    assert np.ptp(masks.sum(axis=0)) <= count % 2
    assert (complementary(n, count + more, seed)[:count] == masks).all()
    assert (samples(n, count + more, n // 2, seed)[:count] == samples(n, count, n // 2, seed)).all()


def test_halves_of_odd_pools_are_the_larger_one_in_turn() -> None:
    # Else half of the records of an odd pool would always be held against larger models than the other half.
    assert [int(mask.sum()) for mask in complementary(7, 4, 1)] == [3, 4, 4, 3]


def test_pairs_are_drawn_independently() -> None:
    masks = complementary(2000, 40, 3)[0::2].astype(float)
    correlations = np.corrcoef(masks)[np.triu_indices(20, 1)]
    assert abs(correlations).max() < 5 / np.sqrt(2000)
    assert (complementary(2000, 2, 4) != masks[:2].astype(bool)).any()


def test_samples_have_their_size() -> None:
    masks = samples(50, 6, 13, 2)
    assert (masks.sum(axis=1) == 13).all()
    assert len({mask.tobytes() for mask in masks}) == 6


# The same models as one by one


def test_each_model_is_what_the_recipe_gives_on_its_records(tmp_path: Path) -> None:
    x, y, torch_state, threads = POOL.x.copy(), POOL.y.copy(), torch.get_rng_state(), torch.get_num_threads()
    found = trained(tmp_path).models
    assert [m.inside.tolist() for m in found] == MASKS.tolist()
    for number, model in enumerate(found):
        alone = fit(RECIPE, POOL.take(np.flatnonzero(MASKS[number])), derive(5, "reference", str(number))).module
        for name, value in alone.state_dict().items():
            np.testing.assert_allclose(model.weights[name], value.numpy(), atol=2e-5)
        with torch.no_grad():
            np.testing.assert_allclose(model.logits, alone(torch.tensor(POOL.x)).numpy(), atol=1e-4)
            np.testing.assert_array_equal(model.logits, model.module()(torch.tensor(POOL.x)).numpy())
        assert model.logits.dtype == np.float32
    assert (x == POOL.x).all()
    assert (y == POOL.y).all()
    assert torch.equal(torch_state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_another_process_trains_the_same_models(tmp_path: Path, one_by_one: None) -> None:
    heard: list[tuple[str, float]] = []
    recipe = dataclasses.replace(RECIPE, epochs=100)
    here = trained(tmp_path / "here", recipe)
    there = trained(tmp_path / "there", recipe, workers=2, report=lambda text, share: heard.append((text, share)))
    assert here.method == "one by one, in 1 process"
    assert there.method == "one by one, in 2 processes"
    assert {n: p.read_bytes() for n, p in entries(tmp_path / "here").items()} == {
        n: p.read_bytes() for n, p in entries(tmp_path / "there").items()
    }
    assert heard[-1] == ("training reference models: 4 of 4", 1.0)
    shares = [share for _, share in heard]
    assert shares == sorted(shares)
    assert list((tmp_path / "there" / "working").iterdir()) == []


def test_records_stay_in_the_store_that_was_given(tmp_path: Path, one_by_one: None) -> None:
    # joblib alone would lay the second pool into the folder of the first: it uses its processes again.
    masks = complementary(1500, 4, 0)
    seen: set[str] = set()

    def look(text: str, share: float) -> None:
        seen.update(p.name for p in (tmp_path / "second" / "working").glob("*/*.npy"))

    for name, pool in (("first", BIG), ("second", Records(BIG.x[::-1].copy(), BIG.y))):
        trained(tmp_path / name, dataclasses.replace(RECIPE, task=WIDE), pool, masks, workers=2, report=look)
    assert seen == {"x.npy", "y.npy"}
    for name in ("first", "second"):
        assert list((tmp_path / name / "working").iterdir()) == []


def test_records_that_cannot_be_written_to_are_enough(tmp_path: Path) -> None:
    x, y = POOL.x.copy(), POOL.y.copy()
    x.setflags(write=False)
    y.setflags(write=False)
    assert len(trained(tmp_path, pool=Records(x, y)).models) == 4


def test_masks_must_be_over_the_pool(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(k, 80\), found \(4, 79\)"):
        trained(tmp_path, masks=MASKS[:, :79])


def test_no_mask_gives_no_model(tmp_path: Path) -> None:
    assert trained(tmp_path, masks=MASKS[:0]).models == ()


def test_progress_says_how_many_are_ready_and_how_long_the_rest_takes() -> None:
    heard: list[tuple[str, float]] = []
    begun = time.monotonic() - 100
    clock = Clock(lambda text, share: heard.append((text, share)), 10, 6, (2, 4), begun)
    for shares in ((0.0, 0.0), (0.0, 0.25), (1.0, 0.25), (1.0, 1.0)):
        clock.tell(shares)
    # Four of ten are there; of the six others one took 100 seconds, later three of them did.
    assert heard == [
        ("training reference models: 4 of 10", 0.0),
        ("training reference models: 5 of 10, about 8 min left", pytest.approx(1 / 6)),
        ("training reference models: 7 of 10, about 2 min left", pytest.approx(1 / 2)),
        ("training reference models: 10 of 10", 1.0),
    ]


def test_progress_is_told_within_a_chunk(tmp_path: Path, one_by_one: None) -> None:
    heard: list[str] = []
    trained(tmp_path, report=lambda text, share: heard.append(text.split(",")[0]))
    begun = [f"training reference models: {k} of 4" for k in (1, 2, 3, 4, 4)]
    assert heard == ["measuring how reference models are trained fastest", *begun]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (7300, "2 h")]
)
def test_times_are_spoken_roughly(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


# Nothing stale


IRRELEVANT = {
    "name": {"name": "another"},
    "version": {"version": "2"},
    "seed": {"seed": 9},
    "text": {"text": "# a remark"},
    "release": {"release": Release(Exposure.LABEL)},
}
RELEVANT = {
    "model": {"architecture": Mlp((9,))},
    "activation": {"architecture": Mlp((8,), activation="tanh")},
    "epochs": {"epochs": 3},
    "batch": {"batch_size": 17},
    "rate": {"optimizer": OptimizerChoice("sgd", 0.11, 0.9)},
    "range": {"task": Task("classification", 3, (6,), (0.0, 2.0))},
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the four models."""
    folder = tmp_path_factory.mktemp("filled")
    assert trained(folder).reused == 0
    return folder


@pytest.mark.parametrize("changed", IRRELEVANT.values(), ids=IRRELEVANT)
def test_what_cannot_change_a_model_is_not_trained_again(filled: Path, changed: dict[str, Any]) -> None:
    again = trained(filled, dataclasses.replace(RECIPE, **changed))
    assert (again.reused, again.seconds) == (4, 0.0)


@pytest.mark.parametrize("changed", RELEVANT.values(), ids=RELEVANT)
def test_another_recipe_is_other_work(filled: Path, changed: dict[str, Any]) -> None:
    assert trained(filled, dataclasses.replace(RECIPE, **changed)).reused == 0


def _other_value() -> Records:
    x = POOL.x.copy()
    x[3, 2] = np.nextafter(x[3, 2], np.float32(1))
    return Records(x, POOL.y)


def _other_label() -> Records:
    y = POOL.y.copy()
    y[3] = (y[3] + 1) % 3
    return Records(POOL.x, y)


@pytest.mark.parametrize("pool", [_other_value, _other_label], ids=["data", "labels"])
def test_other_records_are_other_work(filled: Path, pool: Callable[[], Records]) -> None:
    assert trained(filled, pool=pool()).reused == 0


def test_another_order_of_rows_is_other_work(filled: Path) -> None:
    order = np.random.default_rng(1).permutation(80)
    assert trained(filled, pool=POOL.take(order), masks=MASKS[:, order]).reused == 0


def test_another_seed_or_mask_is_other_work(filled: Path) -> None:
    assert trained(filled, seed=6).reused == 0
    assert trained(filled, masks=complementary(80, 4, 1)).reused == 0
    # The masks of another order belong to other seeds.
    assert trained(filled, masks=MASKS[[1, 0, 3, 2]]).reused == 0


def test_other_code_or_another_torch_is_other_work(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "code_version", lambda: "tomorrow's")
        assert trained(filled).reused == 0
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "99.0")
        assert trained(filled).reused == 0
    assert trained(filled).reused == 4


def test_every_field_of_a_recipe_is_decided_upon() -> None:
    known = {f.name for f in dataclasses.fields(Recipe)}
    assert known >= BESIDE
    assert set(identity(RECIPE)) == known - BESIDE


def test_from_k_to_2k_only_the_new_ones_are_trained(tmp_path: Path) -> None:
    first = trained(tmp_path, masks=complementary(80, 3, 0))
    before = identities(tmp_path)
    both = trained(tmp_path, masks=complementary(80, 6, 0))
    assert (both.reused, len(entries(tmp_path))) == (3, 6)
    assert before.items() <= identities(tmp_path).items()
    for old, new in zip(first.models, both.models, strict=False):
        np.testing.assert_array_equal(old.logits, new.logits)
    assert len({m.logits.tobytes() for m in both.models}) == 6


def test_models_that_another_way_has_trained_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(tmp_path, masks=MASKS[:2])
    monkeypatch.setattr(Trial, "choice", lambda self: Choice("stacked", {}))
    both = trained(tmp_path)
    assert (first.method, both.reused) == ("one by one, in 1 process", 2)
    assert both.method == "one by one and stacked, 2 at a time, in 1 process"


WITHOUT_TORCH = """
import sys
from pathlib import Path
sys.modules["torch"] = None
import numpy as np
from midguard.engine import machine, store
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.mnist_cnn import MnistCnn
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.recipe import OptimizerChoice, Recipe
from midguard.engine.reference import complementary, estimate, train_references
from midguard.engine.store import Store
from midguard.engine.subject import Task
from midguard.engine.target import Records

machine.device = lambda: "cpu"
store.code_version = lambda: "today's"
pool = Records(**np.load(sys.argv[2]))
task, optimizer = Task("classification", 3, (6,), (0.0, 1.0)), OptimizerChoice("sgd", 0.1, 0.9)
recipe = Recipe(Mlp((8,)), task, optimizer, epochs=2, batch_size=16)
found = train_references(recipe, pool, complementary(80, 4, 0), 5, Store(Path(sys.argv[1])), lambda *_: None, 1)
print(found.reused, found.models[3].logits.shape)
for architecture in (Mlp(), Linear(), Cnn(), Resnet8()):
    for defense in (None, DpSgd(noise_multiplier=1.0)):
        recipe = Recipe(architecture, Task("classification", 3, (1, 8, 8), (0.0, 1.0)), defense=defense)
        print(estimate(recipe, 300, 4, 1).bytes > 4 * 300 * 64)
"""


def test_what_is_there_and_what_more_would_cost_needs_no_torch(filled: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", x=POOL.x, y=POOL.y)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(filled), str(tmp_path / "pool.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["4 (80, 3)", *8 * ["True"]], done.stderr


def networks() -> Iterator[Any]:
    """Every known architecture, each of its choices in turn."""
    yield from (MnistCnn(), MnistCnn("tanh"))
    yield from (Linear(), Mlp(()), Mlp((5,), dropout=0.1), Mlp((5, 7), activation="tanh"))
    for norm, dropout in itertools.product(("none", "group"), (0.0, 0.2)):
        more: dict[str, Any] = {"norm": norm, "dropout": dropout}
        yield from (Cnn((2, 3), (5,), **more), Cnn((1, 4, 8, 3, 2), (), **more), Cnn((16,), (4, 3), **more))
        yield from (Resnet8(2, **more), Resnet8(6, **more))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 40), (3, 5, 7), (1, 1, 33), (3, 2, 2), (1, 17, 16)])
def test_sizes_counted_without_torch_are_those_of_the_built_network(shape: tuple[int, ...]) -> None:
    for network in networks():
        if isinstance(network, MnistCnn) and min(shape[1:]) < 14:
            with pytest.raises(ValueError, match="14×14"):
                layers(network, shape, 3)
            continue
        counted = layers(network, shape, 3)
        assert counted is not None, f"{network}: nobody counts it"
        assert Footprint(counted.parameters, counted.activations, counted.patches) == built(network, shape, 3)


def test_every_architecture_is_counted_without_torch() -> None:
    assert {type(network) for network in networks()} == {registry.load("architectures", n) for n in NETWORKS}


def test_an_architecture_that_is_not_known_is_built() -> None:
    @dataclasses.dataclass(frozen=True)
    class Wider(Mlp):
        def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
            return Mlp((2 * self.hidden[0],)).build(shape, classes)

    recipe = dataclasses.replace(RECIPE, architecture=Wider((4,)))
    assert footprint(recipe) == footprint(RECIPE)


# Nothing damaged


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _put(content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: Store(path.parents[1]).put(path.name, content())


def _model(logits: Any, **weights: Any) -> Callable[[Path], None]:
    return _put(lambda: pack({"way": "sequential"}, {"logits": logits, **weights}))


WEIGHT = {"weights/a": np.zeros(1, np.float32)}
DAMAGES = {
    "a bit": _flipped,
    "the end": _cut,
    "everything": _emptied,
    "fewer records": _model(np.zeros((79, 3), np.float32), **WEIGHT),
    "more classes": _model(np.zeros((80, 4), np.float32), **WEIGHT),
    "another type": _model(np.zeros((80, 3)), **WEIGHT),
    "no number": _model(np.full((80, 3), np.nan, np.float32), **WEIGHT),
    "no weights": _model(np.zeros((80, 3), np.float32)),
    "no archive": _put(lambda: b"PK, but no more"),
    "no logits": _put(lambda: pack({"way": "sequential"}, WEIGHT)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_trained_again_and_no_other(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    before = trained(tmp_path)
    path, others = entries(tmp_path)[before.models[2].name], identities(tmp_path)
    content = path.read_bytes()
    damage(path)
    after = trained(tmp_path)
    assert after.reused == 3
    assert path.read_bytes() == content
    del others[path.name]
    assert others.items() <= identities(tmp_path).items()


def test_damaged_memories_of_schedule_and_speed_only_cost_time(tmp_path: Path) -> None:
    trained(tmp_path)
    models = set(entries(tmp_path))
    for path in [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in models]:
        _cut(path)
    assert trained(tmp_path).reused == 4
    entries(tmp_path)[sorted(models)[0]].unlink()
    assert trained(tmp_path).reused == 3


def test_weights_that_are_gone_are_an_error(tmp_path: Path) -> None:
    model = trained(tmp_path).models[0]
    entries(tmp_path)[model.name].unlink()
    with pytest.raises(MidguardError, match="gone from"):
        model.module()


# The fastest way, measured


def speeds(monkeypatch: pytest.MonkeyPatch, **known: float) -> list[str]:
    """Let every way be as fast as is said; returns the list of those that were looked at."""
    looked: list[str] = []

    def measured(self: object, way: str, models: int, steps: int) -> float:
        looked.append(way)
        return known.get(way, 1.0)

    monkeypatch.setattr(Trial, "_measured", measured)
    return looked


LONG = dataclasses.replace(RECIPE, epochs=60)


def test_the_fastest_way_is_taken_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = speeds(monkeypatch, sequential=100.0, stacked=310.0)
    found = trained(tmp_path, LONG)
    assert found.method == "stacked, 4 at a time, in 1 process; measured 3.1 times as fast as one by one"
    assert set(looked) == set(found.speeds) >= {"sequential", "stacked"}
    looked.clear()
    again = trained(tmp_path, LONG)
    assert again.method == "stacked, 4 at a time; measured 3.1 times as fast as one by one"
    other = trained(tmp_path, LONG, seed=8)
    assert (other.reused, other.method, looked) == (0, found.method, [])


def test_a_way_that_is_hardly_faster_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, sequential=100.0, stacked=109.0)
    assert trained(tmp_path, LONG).method.startswith("one by one, in 1 process; measured the fastest of")


def test_a_way_that_cannot_train_by_the_recipe_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.load("ensembles", "stacked")
    monkeypatch.setattr(plugin, "obstacle", lambda self, recipe, device: "not today")
    looked = speeds(monkeypatch, sequential=100.0, stacked=900.0)
    assert "stacked" not in trained(tmp_path, LONG).method
    assert "stacked" not in looked


def test_comparing_costs_a_small_share_of_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def counted(self: object, recipe: Recipe, pool: Records, parts: Any, progress: object) -> tuple[()]:
        nonlocal steps
        assert len({len(part.records) for part in parts}) == 1
        steps += sum(recipe.epochs * -(-len(part.records) // recipe.batch_size) for part in parts)
        return ()

    for name in registry.names("ensembles"):
        monkeypatch.setattr(registry.load("ensembles", name), "train", counted)
    for epochs in (1, 30, 150, 1000):
        steps, recipe = 0, dataclasses.replace(RECIPE, epochs=epochs)
        work = Work.of(recipe, POOL, MASKS, 5, Store(tmp_path / str(epochs)))
        total = 4 * epochs * 3
        Trial(work, range(4), total).choice()
        assert steps <= 0.06 * total + 12


def test_a_remembered_schedule_is_kept_when_the_machine_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_layout, "_TOGETHER", 2)
    monkeypatch.setattr(Trial, "choice", lambda self: Choice("stacked", {}))
    gone = {model.name for model in trained(tmp_path).models[1:3]}
    sizes: list[int] = []
    original = Chunk.train

    def seen(self: Any, pool: Records, progress: Any) -> None:
        sizes.append(len(self.parts))
        original(self, pool, progress)

    monkeypatch.setattr(Chunk, "train", seen)
    monkeypatch.setattr(_layout, "_TOGETHER", 32)
    monkeypatch.setattr(Trial, "choice", lambda self: Choice("sequential", {}))
    before, contents = identities(tmp_path), {name: path.read_bytes() for name, path in entries(tmp_path).items()}
    for name in gone:
        entries(tmp_path)[name].unlink()
    assert trained(tmp_path).reused == 2
    # For the one of each chunk that is gone both were trained, so that it gets the same bits; the other stays.
    assert sizes == [2, 2]
    assert {name: path.read_bytes() for name, path in entries(tmp_path).items()} == contents
    after = identities(tmp_path)
    assert {name for name in before if before[name] != after[name]} == gone


def test_searching_for_the_noise_is_no_part_of_the_comparison(tmp_path: Path) -> None:
    for defense in (DpSgd(target_epsilon=8.0, clipping_norm=0.5), DpSgd(noise_multiplier=1.0, clipping_norm=0.5)):
        recipe = dataclasses.replace(RECIPE, defense=defense)
        work = Work.of(recipe, POOL, MASKS, 5, Store(tmp_path))
        assert Trial(work, range(4), 100)._defense() == DpSgd(noise_multiplier=1.0, clipping_norm=0.5)


def test_noise_of_a_reference_is_nobodys_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a run that was killed could not end with the same models.
    monkeypatch.setattr(Trial, "choice", lambda self: Choice("stacked", {}))
    recipe = dataclasses.replace(RECIPE, defense=DpSgd(noise_multiplier=1.0))
    one, two = (trained(tmp_path / name, recipe) for name in ("one", "two"))
    assert [m.logits.tobytes() for m in one.models] == [m.logits.tobytes() for m in two.models]


# What the machine has


@dataclasses.dataclass(frozen=True)
class Heavy:
    """A way that takes so many bytes a model."""

    each: int

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        return self.each * models


@given(count=st.integers(1, 300), workers=st.integers(1, 40), each=st.integers(1, 500), free=st.integers(1, 20_000))
def test_chunks_fit_memory_processes_and_patience(count: int, workers: int, each: int, free: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "free_memory", lambda device: free)
        found = _layout.layout(Heavy(each), RECIPE, 10, count, workers, "cpu")  # type: ignore[arg-type]
    assert 1 <= found.chunk <= min(32, -(-count // found.processes))
    assert 1 <= found.processes <= min(workers, count)
    assert found.bytes == found.processes * found.chunk * each
    assert found.bytes <= free / 2 or (found.chunk, found.processes) == (1, 1)
    # No process goes idle while another has two chunks more to train.
    chunks = -(-count // found.chunk)
    assert -(-chunks // found.processes) * found.chunk * found.processes < count + 2 * found.processes * found.chunk


def test_chunks_are_about_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**9)
    layout = _layout.layout(Heavy(1), RECIPE, 10, 66, 2, "cpu")  # type: ignore[arg-type]
    assert (layout.chunk, layout.processes) == (17, 2)


def test_free_memory_is_at_most_what_there_is() -> None:
    assert 2**20 < machine.free_memory("cpu") <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_limits_of_a_container_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, limit, used in (("two", "memory.max", "memory.current"), ("none", "memory.max", "memory.current")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / limit).write_text("max\n" if folder == "none" else "1000\n")
        (tmp_path / folder / used).write_text("300\n")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "one" / "memory.usage_in_bytes").write_text("950\n")
    monkeypatch.setattr(
        machine, "_cgroups", lambda kind: [tmp_path / n for n in (["one"] if kind else ["two", "none", "absent"])]
    )
    assert list(machine._container()) == [700, 0]


def test_the_cost_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(_cost, "ways", lambda recipe, device: {"a": Heavy(10), "b": Heavy(1000), "c": Heavy(9)})
    # 41 of 81 records in batches of 16 are 3 steps; records and answers as float32; what two processes train at once.
    expected = Cost(5, 5 * 2 * 3, 4 * 81 * (6 + 5 * 3) + 2 * 3 * 1000, 3, 2)
    assert estimate(RECIPE, 81, 5, workers=2) == expected


def test_threads_would_share_a_generator(tmp_path: Path) -> None:
    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert trained(tmp_path, workers=4).method.endswith("in 1 process")


def test_a_store_stays_where_it_is_when_the_working_folder_changes(
    tmp_path: Path, one_by_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second time the processes of the first are used again, which began in another folder.
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found = trained(Path("store"), workers=2, seed=len(name))
        assert found.method.endswith("in 2 processes")
        assert len(entries(tmp_path / name / "store")) >= len(found.models)
        assert all(model.weights for model in found.models)


def test_whoever_calls_decides_where_processes_run(tmp_path: Path, one_by_one: None) -> None:
    submitted = []

    class Elsewhere(LokyBackend):
        def configure(self, *arguments: Any, **more: Any) -> Any:
            submitted.append(more.get("n_jobs", arguments[:1]))
            return super().configure(*arguments, **more)

    joblib.register_parallel_backend("elsewhere", Elsewhere)
    with joblib.parallel_config(backend="elsewhere", inner_max_num_threads=1):
        trained(tmp_path, workers=2)
    assert submitted


def test_a_short_job_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda n: 4)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a process was started")

    with monkeypatch.context() as patch:
        patch.setattr(_train, "in_processes", refuse)
        assert trained(tmp_path, workers=None).method.endswith("in 1 process")
    speeds(monkeypatch, sequential=1e-3)
    started: list[int] = []
    monkeypatch.setattr(
        _train,
        "in_processes",
        lambda chunks, pool, clock, n: [started.append(n), _processes.here(chunks, pool, clock)],
    )
    assert trained(tmp_path, seed=7, workers=None).method.endswith("in 4 processes")
    assert started == [4]


# What goes wrong


@pytest.mark.parametrize("workers", [1, 2])
def test_a_diverging_training_is_an_error(tmp_path: Path, workers: int) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=OptimizerChoice("sgd", 1e30))
    with pytest.raises(MidguardError, match="diverged"):
        trained(tmp_path, recipe, workers=workers)
    assert not entries(tmp_path)


def test_records_that_are_not_the_recipes_are_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels outside"):
        trained(tmp_path, pool=Records(POOL.x, POOL.y + 1))
    with pytest.raises(InputError, match="no records"):
        trained(tmp_path, masks=np.zeros((1, 80), dtype=bool))


def test_what_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: None) -> None:
    def fail(*arguments: object) -> None:
        raise ArithmeticError("the disk is on fire")

    monkeypatch.setattr(Sequential, "train", fail)
    with pytest.raises(MidguardError, match="reference models failed: ArithmeticError: the disk is on fire"):
        trained(tmp_path)


class Fatal(Mlp):
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('os').kill(__import__('os').getpid(), 9)",)


def test_a_process_that_is_killed_is_an_error(tmp_path: Path, one_by_one: None) -> None:
    recipe = dataclasses.replace(RECIPE, architecture=Fatal((4,)))
    with pytest.raises(MidguardError, match=r"was killed.*the next run goes on"):
        trained(tmp_path, recipe, workers=2)
    assert not entries(tmp_path)


# Killed, and two at once

KILLED = """
import os
from pathlib import Path
import numpy as np
from joblib.externals.loky import get_reusable_executor
from midguard.engine import store
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.mnist_cnn import MnistCnn
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.recipe import Recipe
from midguard.engine.reference import _layout, complementary, train_references
from midguard.engine.reference._chunk import Chunk
from midguard.engine.reference._trial import Choice, Trial
from midguard.engine.store import Store
from midguard.engine.subject import Task
from midguard.engine.target import Records

train = Chunk.train
TASK = Task("classification", 3, (1, 6, 6), (0.0, 1.0))
PRIVATE = DpSgd(noise_multiplier=1.0, clipping_norm=0.5)
RECIPES = {
    "": Recipe(Mlp((16,)), TASK, epochs=200, batch_size=16),
    "stacked": Recipe(Mlp((16,)), TASK, epochs=50, batch_size=16, defense=PRIVATE),
    "bookkeeping": Recipe(Cnn((3,), ()), TASK, epochs=8, batch_size=16, defense=PRIVATE),
}

def run(folder, log, workers, way):
    os.setsid()
    _layout._TOGETHER = 3
    store.code_version = lambda: "today's"

    def logged(self, pool, progress):
        if self.missing(pool):
            with log.open("a") as file:
                file.write("chunk\\n")
        train(self, pool, progress)

    Chunk.train = logged
    if way:
        Trial.choice = lambda self: Choice(way, {})
    rng = np.random.default_rng(0)
    pool = Records(rng.random((150, 1, 6, 6), dtype=np.float32), rng.integers(0, 3, 150))
    train_references(RECIPES[way], pool, complementary(150, 12, 0), 1, Store(folder), lambda *_: None, workers)
    if workers > 1:
        # A forked process leaves without telling those that it started, and would wait until they are bored.
        get_reusable_executor().shutdown(wait=True)
"""
#: Imported once for all processes that are to be killed; none of it has computed anything when they are forked.
ONCE = ["torch._dynamo", "joblib", "midguard.engine.reference", "midguard.engine.ensembles._one"]


@dataclasses.dataclass(frozen=True)
class Killable:
    """Runs of twelve models in four chunks, each in a process, and a group of processes, of its own."""

    run: Callable[..., None]

    def start(self, folder: Path, log: Path, workers: int = 1, way: str = "") -> Any:
        process = multiprocessing.get_context("forkserver").Process(target=self.run, args=(folder, log, workers, way))
        process.start()
        while process.is_alive() and os.getpgid(process.pid) != process.pid:
            time.sleep(0.001)  # it cannot be killed with all that it starts before it is in a group of its own
        return process

    def finish(self, folder: Path, log: Path, workers: int = 1, way: str = "") -> dict[str, bytes]:
        """Run to the end. Returns: the models, to the bit."""
        process = self.start(folder, log, workers, way)
        process.join(240)
        assert process.exitcode == 0
        return {name: path.read_bytes() for name, path in entries(folder).items()}

    def kill(self, folder: Path, log: Path, workers: int, way: str, chance: random.Random, models: int) -> None:
        """Start a run and kill it, with everything that it has started, some time after so many models are there."""
        later = chance.uniform(0, 0.15)
        process = self.start(folder, log, workers, way)
        while process.is_alive() and len(entries(folder)) < models:
            time.sleep(0.005)
        time.sleep(later)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()

    def resumes(self, tmp_path: Path, whole: dict[str, bytes], seed: int, workers: int = 1, way: str = "") -> int:
        """Kill a run and go on. Returns: how many models were finished when it died."""
        folder, log, again, chance = tmp_path / "store", tmp_path / "log", tmp_path / "again", random.Random(seed)
        folder.mkdir(parents=True)
        self.kill(folder, log, workers, way, chance, chance.randrange(12))
        before = identities(folder)
        after = self.finish(folder, again, workers, way)
        assert before.items() <= identities(folder).items(), "a finished model was written again"
        if workers == 1:
            chunks = len(again.read_text().splitlines()) if again.exists() else 0
            assert chunks == 4 - len(before) // 3, "a finished chunk was trained again"
        assert after == whole
        return len(before)


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    """What starts runs that may be killed."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "killed.py").write_text(KILLED)
    multiprocessing.set_forkserver_preload(ONCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Killable(importlib.import_module("killed").run)


@pytest.fixture(scope="module")
def undisturbed(killable: Killable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The twelve models of a run that nobody killed, to the bit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = killable.finish(folder / "store", folder / "log")
    assert len(found) == 12
    return found


@pytest.mark.parametrize("seed", [1, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, killable: Killable, undisturbed: dict[str, bytes], seed: int
) -> None:
    assert killable.resumes(tmp_path, undisturbed, seed) < 12


@pytest.mark.parametrize("way", ["stacked", "bookkeeping"])
def test_a_killed_private_run_ends_with_the_same_bits(tmp_path: Path, killable: Killable, way: str) -> None:
    whole = killable.finish(tmp_path / "undisturbed", tmp_path / "all", way=way)
    assert len(whole) == 12
    assert killable.resumes(tmp_path / "killed", whole, 1, way=way) < 12


@pytest.mark.calibrate
def test_twenty_kills(tmp_path: Path, killable: Killable, undisturbed: dict[str, bytes]) -> None:
    finished = [killable.resumes(tmp_path / str(seed), undisturbed, seed, 1 + seed % 2) for seed in range(20)]
    assert len(set(finished)) > 3
    sys.stderr.write(f"20 runs killed with {finished} of 12 models finished: all ended with the same bits\n")


def test_two_runs_at_once_do_not_harm_each_other(
    tmp_path: Path, killable: Killable, undisturbed: dict[str, bytes]
) -> None:
    folder = tmp_path / "store"
    both = [killable.start(folder, tmp_path / name) for name in ("one", "two")]
    for process in both:
        process.join(240)
    assert [process.exitcode for process in both] == [0, 0]
    assert {name: path.read_bytes() for name, path in entries(folder).items()} == undisturbed
    assert not list(folder.rglob(".writing-*"))


def test_records_that_a_killed_run_left_behind_are_removed(tmp_path: Path) -> None:
    with _processes.workplace(Store(tmp_path)) as alive:
        gone = tmp_path / "working" / "999999999-left"
        gone.mkdir()
        (gone / "records.pkl").write_bytes(b"somebody's")
        with _processes.workplace(Store(tmp_path)) as other:
            assert sorted((tmp_path / "working").iterdir()) == sorted([alive, other])
            assert other.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "working").iterdir()) == []


def test_a_run_whose_parent_is_gone_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", POOL.x)
    np.save(tmp_path / "y.npy", POOL.y)
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", sys.exit)

    class Asked:
        def train(self, pool: Records, progress: Callable[[float], None]) -> None:
            assert (pool.x == POOL.x).all()
            assert (pool.y == POOL.y).all()
            progress(0.1)
            progress(0.2)

    with pytest.raises(SystemExit, match="1"):
        _processes.elsewhere(0, Asked(), tmp_path / "0")  # type: ignore[arg-type]


def test_its_owner_alone_reads_a_store(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        Store(tmp_path / "a" / "put").put("abc", b"somebody's")
        with _processes.workplace(Store(tmp_path / "a" / "worked")):
            pass
    finally:
        os.umask(before)
    folders = [p for p in (tmp_path / "a").rglob("*") if p.is_dir()]
    assert {p.name for p in folders} == {"put", "ab", "worked", "working"}
    assert {p.stat().st_mode & 0o777 for p in folders} == {0o700}
    assert (tmp_path / "a" / "put" / "ab" / "abc").stat().st_mode & 0o777 == 0o600


def test_numbers_too_small_to_matter_are_flushed_while_models_are_trained_and_only_then() -> None:
    import torch

    from midguard.engine.reference._chunk import one_thread

    tiny = torch.tensor([1e-40])
    assert float(tiny * 1.0) > 0
    with one_thread():
        assert float(tiny * 1.0) == 0
    assert float(tiny * 1.0) > 0
