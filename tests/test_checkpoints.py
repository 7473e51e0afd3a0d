"""An interrupted training: nothing that was spent is lost, no noise is used twice, only the same training goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midguard.engine import descent, training
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.checkpoints import Checkpoint, Identity, Pace, Unfinished, unfinished
from midguard.engine.defenses import State, StepSeen
from midguard.engine.defenses.dp_sgd import DpSgd
from midguard.engine.epochs import Epoch, Tally
from midguard.engine.errors import InputError, MidguardError
from midguard.engine.ledger import Event, Ledger, NonPrivate, SampledGaussian, read_ledger
from midguard.engine.recipe import OptimizerChoice, Recipe
from midguard.engine.subject import Task, load_module, load_subject
from midguard.engine.target import Records
from midguard.engine.training import train

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: digits, version: "1"}
spec:
  architecture: {name: mlp, hidden: [16], dropout: 0.2}
  task: {kind: classification, classes: 10, input: [1, 8, 8], range: [0, 1]}
  data:
    source: builtin:digits
    split: {members: 0.3, nonmembers: 0.3, auxiliary: 0.2, seed: 7}
  optimizer: {name: sgd, lr: 0.5, momentum: 0.9}
  augmentation: {shift: 1}
  epochs: 6
  batch_size: 64
  seed: 1
  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1}
  release: {exposes: probabilities}
"""
DEFENSE = "  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1}\n"
RUN = SampledGaussian(0.1, 1.0, 100, 1.0)
IDENTITY = Identity("a" * 64, "b" * 64, 500)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes the recipe with one piece of text replaced."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in RECIPE
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace(old, new))
        return path

    return write


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step, and every step announced by itself."""
    monkeypatch.setattr(training, "unfinished", partial(unfinished, pace=Pace(announced=0.0, kept=0.0, share=1e9)))


class StoppedError(Exception):
    """Somebody pressed a key."""


def stop_after(epoch: int) -> Callable[[Epoch, int], None]:
    """A progress that interrupts the training."""

    def progress(seen: Epoch, _: int) -> None:
        if seen.number == epoch:
            raise StoppedError

    return progress


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / ".out.unfinished"


def steps_of(events: tuple[Event, ...]) -> list[int]:
    return [event.steps for event in events if isinstance(event, SampledGaussian)]


def interrupted(path: Path, tmp_path: Path, epoch: int = 2) -> None:
    with pytest.raises(StoppedError):
        train(path, tmp_path / "out", stop_after(epoch))
    assert not (tmp_path / "out").exists()


# --- killed at random moments ----------------------------------------------------------------------------------------

_KILLED = '''
"""Trains in children that are killed at random moments; each step is written down before its noise is used."""
import functools, hashlib, os, random, signal, sys, time
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from midguard.engine import checkpoints, descent, training
from midguard.engine.ledger import read_ledger

recipe, out, log, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
spent = out.with_name(f".{out.name}.unfinished") / "ledger.json"
chance = random.Random(int(seed))

class Watch:
    def contribute(self, step):
        time.sleep(0.002)
    def saw(self, step):
        noise = np.concatenate([(n - s).numpy().ravel() for n, s in zip(step.noised, step.sums)])
        with log.open("a") as file:
            file.write(f"{step.step} {hashlib.sha256(noise.tobytes()).hexdigest()}\\n")

def child():
    pace = checkpoints.Pace(announced=0.02, kept=0.03, share=1e9)
    training.unfinished = functools.partial(checkpoints.unfinished, pace=pace)
    training.fit = lambda *a, **k: descent.fit(*a, **k | {"witness": Watch()})
    training.train(recipe, out)

def lines():
    return len(log.read_text().splitlines()) if log.exists() else 0

def steps():
    return sum(event.steps for event in read_ledger(spent).events) if spent.exists() else 0

done = 0
while not out.exists():
    process = os.fork()
    if process == 0:
        try:
            child()
        finally:
            os._exit(0)
    if done < kills:
        begun = lines()
        while lines() == begun and not out.exists():  # not while it gets ready: that would take for ever
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    if spent.exists():
        assert steps() >= lines(), f"{steps()} are accounted for, {lines()} were taken"
        done += 1
print(done)
'''


@pytest.mark.parametrize(("seed", "kills"), [(1, 3), pytest.param(2, 20, marks=pytest.mark.calibrate)])
def test_killed_at_random_moments_it_counts_every_step_and_repeats_no_noise(
    recipe: Callable[..., Path], tmp_path: Path, seed: int, kills: int
) -> None:
    """`kill -9`, again and again. The oracle is a log of the steps that the mechanism's witness saw."""
    path, out, log = recipe("epochs: 6", f"epochs: {2 * kills}"), tmp_path / "out", tmp_path / "log"
    path.write_text(path.read_text().replace("batch_size: 64", "batch_size: 16"))
    command = [sys.executable, "-c", _KILLED, str(path), str(out), str(log), str(kills), str(seed)]
    ended = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    seen = [line.split() for line in log.read_text().splitlines()]
    ledger = read_ledger(out / "ledger.json")
    (event,) = ledger.events
    assert isinstance(event, SampledGaussian)
    assert event.steps == round(2 * kills * ledger.records / 16), "the whole budget and no more"
    assert event.steps >= len(seen) > 0.3 * event.steps, "what is counted in vain stays little"
    assert len({noise for _, noise in seen}) == len(seen), "no noise twice"
    assert len({number for number, _ in seen}) == len(seen), "no step is counted twice as the same one"
    assert ledger.resumed == kills
    assert {entry.name for entry in tmp_path.iterdir()} == {"recipe.yaml", "out", "log"}
    load_module(load_subject(out / "model.pt"))


_KILLED_IN_A_STEP = """
import os, sys
from pathlib import Path
from midguard.engine import descent, training

class Kill:
    def contribute(self, step):
        if step == int(sys.argv[3]):
            os._exit(9)
    def saw(self, step):
        pass

training.fit = lambda *a, **k: descent.fit(*a, **k | {"witness": Kill()})
training.train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_step_is_counted_before_it_is_taken(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The very first step: a ledger that is written behind it would not know of it."""
    command = [sys.executable, "-c", _KILLED_IN_A_STEP, str(recipe()), str(tmp_path / "out"), "0"]
    assert subprocess.run(command, check=False, timeout=120).returncode == 9
    assert steps_of(read_ledger(folder_of(tmp_path) / "ledger.json").events)[0] >= 1


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["{name: sgd, lr: 0.1, momentum: 0.9}", "{name: adam, lr: 0.01}"])
@pytest.mark.usefixtures("often")
def test_plain_training_goes_on_as_if_nothing_had_been(
    recipe: Callable[..., Path], tmp_path: Path, optimizer: str
) -> None:
    """Order, dropout, augmentation, momentum: the same weights, bit by bit, as without the interruption."""
    path = recipe(DEFENSE, "")
    path.write_text(path.read_text().replace("{name: sgd, lr: 0.5, momentum: 0.9}", optimizer))
    whole = train(path, tmp_path / "whole")
    interrupted(path, tmp_path, 4)
    told: list[Epoch] = []
    model = train(path, tmp_path / "out", lambda epoch, _: told.append(epoch))
    assert model.read_bytes() == whole.read_bytes()
    assert [epoch.number for epoch in told] == [5, 6]
    histories = [json.loads((m.parent / "history.json").read_text()) for m in (whole, model)]
    assert histories[0]["epochs"] == histories[1]["epochs"]
    assert histories[1]["story"] == ["went on after epoch 4"]
    assert read_ledger(model.parent / "ledger.json").resumed == 1
    assert read_ledger(whole.parent / "ledger.json").resumed == 0


@pytest.mark.usefixtures("often")
def test_a_private_training_spends_what_it_planned_and_no_more(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe()
    interrupted(path, tmp_path, 2)
    spent = steps_of(read_ledger(folder_of(tmp_path) / "ledger.json").events)[0]
    told: list[str] = []
    model = train(path, tmp_path / "out", tell=told.append)
    whole = train(path, tmp_path / "whole")
    one, other = (read_ledger(m.parent / "ledger.json") for m in (whole, model))
    assert one.events == other.events
    assert (one.resumed, other.resumed) == (0, 1)
    assert told[0].startswith("went on after step ")
    assert 0 < spent <= steps_of(one.events)[0]
    history, other_history = (json.loads((m.parent / "history.json").read_text()) for m in (model, whole))
    assert [epoch["number"] for epoch in history["epochs"]] == [1, 2, 3, 4, 5, 6]
    keys = {*history["noise_keys"], *other_history["noise_keys"]}
    assert (len(history["noise_keys"]), len(other_history["noise_keys"]), len(keys)) == (2, 1, 3)
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


@pytest.mark.usefixtures("often")
def test_the_optimiser_goes_on_where_it_was(tmp_path: Path) -> None:
    """All records in every step and almost no noise: momentum that is lost on the way would show."""
    rng = np.random.default_rng(0)
    records = Records(rng.random((60, 4), dtype=np.float32), rng.integers(0, 3, 60))
    records = dataclasses.replace(records, x=records.x + np.eye(3, 4, dtype=np.float32)[records.y])
    defense = DpSgd(noise_multiplier=0.5, delta=1e-4, clipping_norm=0.05)
    task = Task("classification", 3, (4,), (0.0, 2.0))
    how = Recipe(Mlp((8,)), task, OptimizerChoice("sgd", 1.0, 0.9), epochs=20, batch_size=60, defense=defense)
    whole = descent.fit(how, records, 1)
    with unfinished(tmp_path / "out", IDENTITY, "", pace=Pace(0.0, 0.0, 1e9)) as kept, pytest.raises(StoppedError):
        descent.fit(how, records, 1, stop_after(8), kept=kept)
    with unfinished(tmp_path / "out", IDENTITY, "") as kept:
        resumed = descent.fit(how, records, 1, kept=kept)
    one, other = (torch.cat([p.flatten() for p in t.module.parameters()]) for t in (whole, resumed))
    assert whole.events == resumed.events
    assert float((one - other).norm() / one.norm()) < 0.1
    assert len(resumed.epochs) == 20


def test_steps_whose_outcome_is_lost_count(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The ledger says 30 where the checkpoint holds none: so many fewer are taken, the total is what was planned."""
    path = recipe()
    interrupted(path, tmp_path, 1)
    ledger = folder_of(tmp_path) / "ledger.json"
    document = json.loads(ledger.read_text())
    document["events"][0]["steps"] = 30
    ledger.write_text(json.dumps(document))
    seen: list[int] = []

    class Watch:
        def contribute(self, step: int) -> None:
            return None

        def saw(self, step: StepSeen) -> None:
            seen.append(step.step)

    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", lambda *a, **k: descent.fit(*a, **k | {"witness": Watch()}))
        model = train(path, tmp_path / "out", tell=told.append)
    (event,) = read_ledger(model.parent / "ledger.json").events
    assert isinstance(event, SampledGaussian)
    assert event.steps == round(6 * 538 / 64)
    assert seen == list(range(30, event.steps))
    assert "30 more count as spent, whose outcome was lost" in told[0]


def test_what_is_finished_but_could_not_be_written_is_not_trained_again(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = recipe()
    with monkeypatch.context() as patch:
        patch.setattr("midguard.engine.folder._ledger", full)
        with pytest.raises(OSError, match="No space left"):
            train(path, tmp_path / "out")
    weights = torch.load(folder_of(tmp_path) / "checkpoint.pt", weights_only=True)["weights"]
    model = train(path, tmp_path / "out")
    for name, tensor in torch.load(model, weights_only=True).items():
        assert torch.equal(tensor, weights[name])
    assert steps_of(read_ledger(model.parent / "ledger.json").events) == [round(6 * 538 / 64)]


# --- what may not go on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("lr: 0.5", "lr: 0.4", "another recipe"),
        ("noise_multiplier: 1.1", "noise_multiplier: 1.0", "another recipe"),
        ("seed: 7", "seed: 8", "another recipe"),
    ],
)
def test_another_recipe_does_not_go_on(
    recipe: Callable[..., Path], tmp_path: Path, old: str, new: str, match: str
) -> None:
    interrupted(recipe(), tmp_path)
    with pytest.raises(InputError, match=rf"{match}.*recipe\.yaml.*--fresh.*\d+ steps"):
        train(recipe(old, new), tmp_path / "out")
    assert folder_of(tmp_path).exists(), "nothing is lost"
    assert train(recipe(), tmp_path / "out").exists()


def test_a_mechanism_that_was_another_one_does_not_go_on(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Another version may find another noise for the same target: the ledger would say one of the two of all steps."""
    interrupted(recipe(), tmp_path)
    path = folder_of(tmp_path) / "ledger.json"
    document = json.loads(path.read_text())
    document["events"][0]["noise_multiplier"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="another mechanism"):
        train(recipe(), tmp_path / "out")
    events = read_ledger(train(recipe(), tmp_path / "out", fresh=True).parent / "ledger.json").events
    assert [e.noise_multiplier for e in events if isinstance(e, SampledGaussian)] == [1.0, 1.1]


def test_other_records_do_not_go_on(recipe: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.random((400, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 10, 400))
    path = recipe("source: builtin:digits", "source: {file: a.npz}")
    interrupted(path, tmp_path)
    np.savez(tmp_path / "a.npz", x=rng.random((400, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 10, 400))
    with pytest.raises(InputError, match="other records"):
        train(path, tmp_path / "out")


def test_the_ledgers_say_how_many_records_one_person_has(recipe: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((400, 1, 8, 8), dtype=np.float32), rng.integers(0, 10, 400)
    np.savez(tmp_path / "a.npz", x=x, y=y, person=np.repeat(np.arange(100), 4))
    path = recipe("source: builtin:digits", "source: {file: a.npz}")
    interrupted(path, tmp_path)
    assert read_ledger(folder_of(tmp_path) / "ledger.json").largest_group == 4
    assert read_ledger(train(path, tmp_path / "out").parent / "ledger.json").largest_group == 4


def test_an_audited_training_does_not_go_on(recipe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(recipe(), tmp_path / "out", stop_after(2), audit=True)
    for audit in (True, False):
        with pytest.raises(InputError, match="with an audit"):
            train(recipe(), tmp_path / "out", audit=audit)


def test_starting_over_keeps_what_was_spent(recipe: Callable[..., Path], tmp_path: Path) -> None:
    interrupted(recipe(), tmp_path)
    first = read_ledger(folder_of(tmp_path) / "ledger.json").events
    with pytest.raises(StoppedError):
        train(recipe("lr: 0.5", "lr: 0.4"), tmp_path / "out", stop_after(3), fresh=True)
    second = read_ledger(folder_of(tmp_path) / "ledger.json").events
    told: list[str] = []
    path = recipe("noise_multiplier: 1.1", "noise_multiplier: 2.0")
    model = train(path, tmp_path / "out", fresh=True, tell=told.append)
    ledger = read_ledger(model.parent / "ledger.json")
    assert ledger.events[:2] == first + second
    assert isinstance(ledger.events[2], SampledGaussian)
    assert ledger.events[2].noise_multiplier == 2.0
    assert (len(ledger.events), ledger.resumed) == (3, 0)
    assert told == [f"the ledger keeps what was given up: {sum(steps_of(first + second))} private steps"]
    assert not folder_of(tmp_path).exists()


def test_a_plain_training_that_was_given_up_makes_the_next_one_cost_infinity(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    interrupted(recipe(DEFENSE, ""), tmp_path)
    ledger = read_ledger(train(recipe(), tmp_path / "out", fresh=True).parent / "ledger.json")
    assert ledger.events[0] == NonPrivate("given up: trained without a mechanism")
    assert not ledger.private


def test_what_was_given_up_is_not_forgotten_by_a_refusal(recipe: Callable[..., Path], tmp_path: Path) -> None:
    interrupted(recipe(), tmp_path)
    with pytest.raises(InputError, match="larger than the"):
        train(recipe("batch_size: 64", "batch_size: 640"), tmp_path / "out", fresh=True)
    ledger = read_ledger(train(recipe(), tmp_path / "out", fresh=True).parent / "ledger.json")
    assert len(ledger.events) == 2


def test_a_refusal_before_the_first_step_leaves_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than the"):
        train(recipe("batch_size: 64", "batch_size: 640"), tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"recipe.yaml"}


def test_one_that_was_killed_before_its_first_step_is_in_nobodys_way(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    folder.mkdir()
    (folder / "unfinished.json").write_text(json.dumps(dataclasses.asdict(IDENTITY)))
    ledger = read_ledger(train(recipe(), tmp_path / "out").parent / "ledger.json")
    assert (len(ledger.events), ledger.resumed) == (1, 0)


def test_a_plain_training_that_diverged_leaves_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(DEFENSE, "")
    path.write_text(path.read_text().replace("lr: 0.5", "lr: 1.0e+30"))
    with pytest.raises(MidguardError, match="diverged"):
        train(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"recipe.yaml"}


def test_a_private_training_that_diverged_is_spent(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe("lr: 0.5", "lr: 1.0e+38")
    path.write_text(path.read_text().replace("noise_multiplier: 1.1", "noise_multiplier: 1000"))
    with pytest.raises(MidguardError, match="diverged"):
        train(path, tmp_path / "out")
    assert steps_of(read_ledger(train(recipe(), tmp_path / "out", fresh=True).parent / "ledger.json").events)[0] > 0


def test_two_processes_do_not_train_into_one_place(recipe: Callable[..., Path], tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".out.lock"), pytest.raises(InputError, match="another process"):
        train(recipe(), tmp_path / "out")
    assert train(recipe(), tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("checkpoint.pt", b"no checkpoint", "cannot be read"),
        ("checkpoint.pt", None, "missing"),
        ("unfinished.json", b"{}", "cannot be read"),
        ("ledger.json", b"{}", "not a ledger"),
    ],
)
def test_what_cannot_be_read_does_not_go_on(
    recipe: Callable[..., Path], tmp_path: Path, name: str, content: bytes | None, match: str
) -> None:
    interrupted(recipe(), tmp_path)
    path = folder_of(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        train(recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_runs_no_code(recipe: Callable[..., Path], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    interrupted(recipe(), tmp_path)
    torch.save({"weights": Trap()}, folder_of(tmp_path) / "checkpoint.pt")
    with pytest.raises(InputError, match="cannot be read"):
        train(recipe(), tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


def test_the_folder_is_for_its_owner_alone_and_holds_no_key(recipe: Callable[..., Path], tmp_path: Path) -> None:
    interrupted(recipe(), tmp_path)
    folder = folder_of(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0
    mechanism = torch.load(folder / "checkpoint.pt", weights_only=True)["mechanism"]
    assert set(mechanism) == {field.name for field in dataclasses.fields(State)}
    assert {entry.name for entry in folder.iterdir()} == {
        "checkpoint.pt",
        "ledger.json",
        "recipe.yaml",
        "unfinished.json",
    }


# --- the folder by itself --------------------------------------------------------------------------------------------


def held(folder: Path, pace: Pace) -> Unfinished:
    folder.mkdir(exist_ok=True)
    found = Unfinished(folder, IDENTITY, pace)
    found.starts((RUN,))
    return found


def checkpoint(steps: int, epochs: tuple[Epoch, ...] = ()) -> Checkpoint:
    state = State(len(epochs) + 1, steps, 0.5, ("a" * 64,))
    return Checkpoint(
        {"w": torch.ones(2)}, {"state": {}}, torch.get_rng_state(), state, epochs, Tally(3, 2, 1.5), ("x",)
    )


def test_steps_are_announced_in_blocks_that_grow_and_never_behind(tmp_path: Path) -> None:
    found = held(tmp_path / "a", Pace(announced=1e9))
    written = []
    for step in range(100):
        found.announce(step)
        counted = steps_of(read_ledger(found.folder / "ledger.json").events)[0]
        assert step < counted <= RUN.steps
        written.append(counted)
    assert len(set(written)) < 10, "not once a step"
    slow = held(tmp_path / "b", Pace(announced=0.0))
    for step in range(5):
        slow.announce(step)
        assert steps_of(read_ledger(slow.folder / "ledger.json").events) == [step + 1]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = held(tmp_path / "a", Pace())
    epochs = (Epoch(1, 0.5, 0.75, None, public=True), Epoch(1, 0.4, 0.8, 1.5))
    kept = checkpoint(7, epochs)
    found.announce(9)
    found.keep(kept)
    again = Unfinished(found.folder, IDENTITY, Pace())
    assert again.checkpoint is not None
    assert torch.equal(again.checkpoint.weights["w"], kept.weights["w"])
    assert (again.checkpoint.epochs, again.checkpoint.tally, again.checkpoint.told) == (epochs, kept.tally, ("x",))
    assert again.checkpoint.mechanism == kept.mechanism
    assert again.state == State(1, 10, 0.5, ("a" * 64,)), "one private epoch is over, ten steps were announced"
    assert (again.lost, again.resumed) == (3, 1)


def test_checkpoints_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("midguard.engine.checkpoints.time.monotonic", lambda: clock[0])
    found = held(tmp_path / "a", Pace(kept=5.0, share=0.02))
    assert not found.due()
    clock[0] = 5.0
    assert found.due()
    save = torch.save

    def slow(*arguments: Any) -> None:
        save(*arguments)
        clock[0] += 1.0

    monkeypatch.setattr(torch, "save", slow)
    found.keep(checkpoint(1))
    clock[0] += 49.0
    assert not found.due(), "a second of writing in fifty"
    clock[0] += 1.0
    assert found.due()


def test_a_crash_while_starting_over_counts_twice_rather_than_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unfinished(tmp_path / "out", IDENTITY, "") as first:
        first.starts((RUN,))
        first.keep(checkpoint(1))
        first.announce(4)
    other = dataclasses.replace(IDENTITY, recipe="c" * 64)
    unlink = Path.unlink

    def crash(self: Path, missing_ok: bool = False) -> None:
        if self.name == "ledger.json":
            raise StoppedError
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(StoppedError), unfinished(tmp_path / "out", other, "", fresh=True):
            pass
    with unfinished(tmp_path / "out", other, "", fresh=True) as found:
        assert steps_of(found.abandoned) == [5, 5]


def test_a_ledger_of_an_unfinished_training_is_one(tmp_path: Path) -> None:
    found = held(tmp_path / "a", Pace())
    found.announce(0)
    ledger = read_ledger(found.folder / "ledger.json")
    assert isinstance(ledger, Ledger)
    assert (ledger.records, ledger.data, ledger.proves) == (500, "b" * 64, True)
