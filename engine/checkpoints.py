"""An unfinished training: what is kept of it, so that it goes on after an interruption and nothing it spent is lost.

Beside the folder that a training will leave stands another, `.<name>.unfinished`, until the training is finished:

- `recipe.yaml` and `unfinished.json`: of which recipe, records and given weights it is;
- `ledger.json`: everything that may have happened to the records so far. It is written *before* the steps that it
  counts, so that a process that is killed has never taken more than stands there;
- `reservation.json`: which entry of a budget store was reserved for it;
- `abandoned.json`: what an earlier training, which this one was started over, had spent;
- `checkpoint.pt`: module, optimiser, generator, how far the mechanism is. No key of any noise: what goes on draws a new
  one.

A training that goes on starts at the checkpoint. Steps that were taken, or only announced, after the checkpoint count
as spent: their outcome was computed, and is lost.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .budget import NO_MODEL, RESERVATION, Charge
from .defenses import State
from .epochs import Epoch, Tally
from .errors import InputError
from .ledger import WRITER, Event, Ledger, NonPrivate, SampledGaussian, read_ledger

if TYPE_CHECKING:
    import torch

CHECKPOINT, LEDGER, ABANDONED, ABOUT, RECIPE = (
    "checkpoint.pt",
    "ledger.json",
    "abandoned.json",
    "unfinished.json",
    "recipe.yaml",
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an unfinished training is written down.

    Attributes:
        announced: Seconds of steps that are announced at a time: at most so much is counted that never happened.
        kept: Seconds between checkpoints, at least.
        share: Share of the time that checkpoints may take, at most.
    """

    announced: float = 1.0
    kept: float = 2.0
    share: float = 0.02


@dataclass(frozen=True, slots=True)
class Identity:
    """Which training it is: only the same one goes on.

    Attributes:
        recipe: SHA-256 of the recipe's text.
        data: Digest of the members' content.
        records: How many they are.
        given: Digests of public records and initial weights, one string.
        largest_group: The most records of one person.
    """

    recipe: str
    data: str
    records: int
    given: str = ""
    largest_group: int = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training between two steps.

    Attributes:
        weights: The module's, by name.
        optimizer: The optimiser's own state.
        chance: State of torch's generator.
        mechanism: How far the mechanism is; `None` for plain training.
        epochs: Those that are over, public ones first.
        tally: Of the epoch in between; empty at its start.
        told: What was told of the training so far.
    """

    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    chance: torch.Tensor
    mechanism: State | None
    epochs: tuple[Epoch, ...]
    tally: Tally = field(default_factory=Tally)
    told: tuple[str, ...] = ()


class Unfinished:
    """The folder of a training that is under way, held by this process alone.

    Args:
        folder: It, locked.
        identity: Of this training.
        pace: How often it is written.
    """

    def __init__(self, folder: Path, identity: Identity, pace: Pace) -> None:
        self.folder, self._identity, self._pace = folder, identity, pace
        self.abandoned: tuple[Event, ...] = _events(folder / ABANDONED)
        self.checkpoint = _read_checkpoint(folder)
        earlier = _read_ledger(folder / LEDGER)
        self.resumed = 0 if earlier is None else earlier.resumed + 1
        self._announced = 0 if earlier is None else _steps(earlier.events)
        self._spent = self._announced
        self._earlier: tuple[Event, ...] = () if earlier is None else earlier.events
        self._planned: tuple[Event, ...] = ()
        self._block, self._since = 0, 0.0
        self._kept, self._interval = time.monotonic(), pace.kept
        #: The budget that it is charged to, and what was done to the records before it, if anything.
        self.charge: Charge | None = None
        self.before: tuple[Event, ...] = ()

    @property
    def owes(self) -> bool:
        """Whether records may have been touched, by this training or by one that was given up, or are reserved for."""
        return _owes(self.folder)

    @property
    def given_up(self) -> str:
        """What stays in the ledger of trainings that were given up, in words; empty where there were none."""
        if not self.abandoned:
            return ""
        steps = _steps(self.abandoned)
        return f"the ledger keeps what was given up: {f'{steps} private steps' if steps else 'plain training'}"

    @property
    def state(self) -> State | None:
        """Where the mechanism goes on: every step that may have been taken counts; `None` at the very start."""
        if self.checkpoint is None or self.checkpoint.mechanism is None:
            return None
        reached = self.checkpoint.mechanism
        finished = sum(not epoch.public for epoch in self.checkpoint.epochs)
        return dataclasses.replace(reached, epochs=finished, steps=max(reached.steps, self._spent))

    @property
    def lost(self) -> int:
        """Steps that count although the checkpoint does not hold them."""
        reached = self.checkpoint.mechanism if self.checkpoint is not None else None
        return 0 if reached is None else max(0, self._spent - reached.steps)

    def starts(self, planned: tuple[Event, ...]) -> None:
        """The mechanism is ready, and no step taken yet. Args: what it is going to do at most.

        Raises:
            InputError: It would go on otherwise than it began: one event could not say what happened.
        """
        if self._earlier and [_taken(event, 1) for event in self._earlier] != [_taken(event, 1) for event in planned]:
            raise InputError.of(
                f"{self.folder}: the training was begun with another mechanism than it would go on with, by another "
                "version of midguard perhaps",
                "start over with --fresh: what it spent stays in the new ledger",
            )
        self._planned = planned
        if self.charge is not None:
            events = (*self.abandoned, *self.before, *planned)
            self.charge.reserve(_ledger(events, self._identity, self.resumed))

    def announce(self, step: int) -> None:
        """Write down that a step is going to be taken, before it is. Args: counted from 0."""
        if self._block and step < self._announced:
            return
        now = time.monotonic()
        quick = now - self._since < self._pace.announced
        self._block = (2 * self._block if quick else max(1, self._block // 2)) if self._block else 1
        self._since = now
        self._announced = step + self._block
        if not any(isinstance(event, SampledGaussian) for event in self._planned):
            self._announced = sys.maxsize  # without a mechanism it does not matter how often
        self._write_ledger()

    def _write_ledger(self) -> None:
        """The ledger so far, in one move."""
        events = tuple(_taken(event, self._announced) for event in self._planned)
        text = _ledger(events, self._identity, self.resumed).to_json()
        _write(self.folder / LEDGER, text.encode("utf-8"))

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() - self._kept >= self._interval

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in one move."""
        import torch

        start, buffer = time.monotonic(), io.BytesIO()
        torch.save(_plain(checkpoint), buffer)
        _write(self.folder / CHECKPOINT, buffer.getvalue())
        self._kept = time.monotonic()
        self._interval = max(self._pace.kept, (self._kept - start) / self._pace.share)

    def remove(self) -> None:
        """The training is finished and written, or never touched a record."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def unfinished(
    out: Path, identity: Identity, recipe: str, fresh: bool = False, pace: Pace | None = None
) -> Iterator[Unfinished]:
    """The unfinished training beside a place, a new one where there is none; removed if it never touched a record.

    Args:
        out: Where the training is going to be.
        identity: Which training it is.
        recipe: The recipe's text.
        fresh: Whether to start over; what was spent stays in the ledger.
        pace: How often it is written down.

    Raises:
        InputError: Another process trains there, the place cannot be written to, or what lies there is another
            training or cannot be read.
    """
    with _alone(out):
        held = Unfinished(_opened(out, identity, recipe, fresh), identity, pace or Pace())
        try:
            yield held
        finally:
            if not held.owes:
                held.remove()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process trains into this place; a lock of the operating system, which a killed process gives back."""
    from filelock import FileLock, Timeout

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.with_name(f".{out.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError.of(f"{out}: another process is training into it", "wait for it, or name another") from error
    except OSError as error:
        raise InputError.of(f"{out}: it cannot be written ({error.strerror})", "name another with --out") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it finds a new one
        lock.release()


def _opened(out: Path, identity: Identity, recipe: str, fresh: bool) -> Path:
    """The folder, new or of the same training.

    Raises:
        InputError: It is of another training, or cannot be written.
    """
    folder = out.with_name(f".{out.name}.unfinished")
    about = folder / ABOUT
    try:
        if about.exists() and _owes(folder) and not fresh:
            _refuse_another(folder, identity)
            return folder
        folder.mkdir(mode=0o700, exist_ok=True)
        _give_up(folder, identity)
        _write(folder / RECIPE, recipe.encode("utf-8"))
        _write(about, json.dumps(asdict(identity), indent=2).encode("utf-8"))
    except OSError as error:
        raise InputError.of(f"{folder}: it cannot be written ({error.strerror})", "name another with --out") from error
    return folder


def _owes(folder: Path) -> bool:
    """Whether records may have been touched, or are reserved for, by what lies there."""
    return any((folder / name).exists() for name in (LEDGER, ABANDONED, RESERVATION))


def _give_up(folder: Path, identity: Identity) -> None:
    """What an earlier training spent is moved aside; a crash in between counts some of it twice, never not at all."""
    spent = _events(folder / LEDGER)
    if spent:
        events = (*_events(folder / ABANDONED), *(_given_up(event) for event in spent))
        _write(folder / ABANDONED, _ledger(events, identity, 0).to_json().encode("utf-8"))
    for name in (LEDGER, CHECKPOINT, ABOUT):
        (folder / name).unlink(missing_ok=True)


def _given_up(event: Event) -> Event:
    """An event of a training that was given up."""
    return NonPrivate(f"given up: {event.reason}") if isinstance(event, NonPrivate) else event


def _refuse_another(folder: Path, identity: Identity) -> None:
    """Refuse to go on with a training of another recipe or of other records."""
    try:
        found = Identity(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(folder / ABOUT, str(error)) from error
    if found == identity:
        return
    spent = _steps(_events(folder / LEDGER))
    keeps = f": the {spent} steps that it may have taken stay in the new ledger" if spent else ""
    raise InputError.of(
        f"{folder}: a training {_difference(found, identity)} was begun here and is unfinished",
        f"finish it with its own recipe ({folder / RECIPE} is a copy) and files, or start over with --fresh{keeps}",
    )


def _difference(found: Identity, wanted: Identity) -> str:
    """What makes an unfinished training another one, in words."""
    if found.recipe != wanted.recipe:
        return "of another recipe"
    if "audit" in found.given:
        return "with an audit, whose canaries went with its process,"
    return "of other records or other given weights"


def _unreadable(path: Path, why: str) -> InputError:
    return InputError.of(
        f"{path}: the unfinished training cannot be read ({why})",
        "start over with --fresh: what it spent stays in the new ledger",
    )


def _ledger(events: tuple[Event, ...], identity: Identity, resumed: int) -> Ledger:
    """A ledger of no model."""
    from .. import __version__

    return Ledger(
        events=events,
        records=identity.records,
        data=identity.data,
        model=NO_MODEL,
        written_by=f"{WRITER}{__version__}",
        largest_group=identity.largest_group,
        resumed=resumed,
    )


def _read_ledger(path: Path) -> Ledger | None:
    return read_ledger(path) if path.exists() else None


def _events(path: Path) -> tuple[Event, ...]:
    """The events of a ledger; none where there is none."""
    ledger = _read_ledger(path)
    return () if ledger is None else ledger.events


def _steps(events: tuple[Event, ...]) -> int:
    """How many steps of a mechanism they are."""
    return sum(event.steps for event in events if isinstance(event, SampledGaussian))


def _taken(event: Event, steps: int) -> Event:
    """The event after so many steps, or as it is."""
    return dataclasses.replace(event, steps=min(steps, event.steps)) if isinstance(event, SampledGaussian) else event


def _plain(checkpoint: Checkpoint) -> dict[str, Any]:
    """As torch.save writes it and torch.load reads it without running any code."""
    return {
        "weights": dict(checkpoint.weights),
        "optimizer": dict(checkpoint.optimizer),
        "chance": checkpoint.chance,
        "mechanism": None if checkpoint.mechanism is None else _row(checkpoint.mechanism),
        "epochs": [_row(epoch) for epoch in checkpoint.epochs],
        "tally": _row(checkpoint.tally),
        "told": list(checkpoint.told),
    }


def _row(value: State | Epoch | Tally) -> dict[str, Any]:
    """Plain numbers and texts by name."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(value).items()}


def _read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint; `None` where no step was announced yet.

    Raises:
        InputError: It is missing or cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        if (folder / LEDGER).exists():
            raise _unreadable(path, "it is missing")
        return None
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return _checkpoint(found)
    except Exception as error:  # whatever a broken file makes torch raise, there is no checkpoint
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error


def _checkpoint(found: dict[str, Any]) -> Checkpoint:
    mechanism = found["mechanism"]
    return Checkpoint(
        weights=found["weights"],
        optimizer=found["optimizer"],
        chance=found["chance"],
        mechanism=None if mechanism is None else State(**mechanism | {"keys": tuple(mechanism["keys"])}),
        epochs=tuple(Epoch(**epoch) for epoch in found["epochs"]),
        tally=Tally(**found["tally"]),
        told=tuple(found["told"]),
    )


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, and on the disk before anything goes on."""
    fresh = path.with_name(f"{path.name}.part")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
