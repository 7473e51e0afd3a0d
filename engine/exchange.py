"""Ledgers from and for other programs: Opacus' accountant state and dp-accounting's event trees."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import InputError
from .ledger import Event, Ledger, NonPrivate, Repetitions, SampledGaussian, Sampler, Tuned, Unit

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from .subject import Subject

_MAX_BYTES = 1 << 28
#: A tree nested deeper, or with more leaves, was written by nobody who trained a model.
_MAX_DEPTH, _MAX_LEAVES = 100, 1000


class Origin(StrEnum):
    """Whose records are read or written."""

    OPACUS = "opacus"
    DP_ACCOUNTING = "dp-accounting"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What other programs' records do not say of a training.

    Attributes:
        sampler: How the records of a step were chosen.
        evidence: What shows it; without, sampling is not counted in the training's favour.
        clipping_norm: Bound on one record's contribution; their noise is relative to it, so it changes no cost.
    """

    sampler: Sampler
    evidence: str = ""
    clipping_norm: float = 1.0

    def sums(self, noise: float, probability: float, steps: int) -> SampledGaussian:
        """Noisy sums as this training's.

        Raises:
            TypeError: A value that is no number.
            ValueError: A value that no training has.
        """
        return SampledGaussian(probability, noise, steps, self.clipping_norm, self.sampler, self.evidence)


# --- Opacus ----------------------------------------------------------------------------------------------------------


def events_of_history(history: object, told: Circumstances) -> tuple[Event, ...]:
    """Opacus' `accountant.history`: (noise multiplier, sample rate, steps), each run of equal steps once.

    Raises:
        ValueError: It is no such list, or empty.
        TypeError: A value of the wrong kind.
    """
    if not isinstance(history, Sequence) or isinstance(history, str | bytes) or not history:
        raise ValueError("expected a history of at least one (noise multiplier, sample rate, steps)")
    found: list[SampledGaussian] = []
    for entry in history:
        if not isinstance(entry, Sequence) or isinstance(entry, str | bytes) or len(entry) != 3:
            raise ValueError(f"expected (noise multiplier, sample rate, steps), found {entry!r}")
        noise, rate, steps = entry
        _add(found, told.sums(noise, rate, steps))
    if len(found) > _MAX_LEAVES:
        raise ValueError(f"more than {_MAX_LEAVES} kinds of steps")
    return tuple(found)


def _add(found: list[SampledGaussian], sums: SampledGaussian) -> None:
    """Append steps, to the last ones where they are alike."""
    if found and replace(found[-1], steps=sums.steps) == sums:
        found[-1] = replace(sums, steps=found[-1].steps + sums.steps)
    else:
        found.append(sums)


def history_of(ledger: Ledger) -> tuple[tuple[float, float, int], ...]:
    """The ledger as Opacus' history, which believes every rate: what may not be counted as sampled has a rate of 1.

    Raises:
        InputError: Opacus has no words for something that happened.
    """
    return tuple(_history_entry(event) for event in ledger.events)


def _history_entry(event: Event) -> tuple[float, float, int]:
    if not isinstance(event, SampledGaussian):
        raise InputError.of(
            f"Opacus has no words for '{_kind(event)}'", "export it for dp-accounting, or check it with midguard"
        )
    rate, steps = (event.sampling_probability, event.steps) if event.amplified else (1.0, event.uses)
    return (event.effective_noise_multiplier, rate, steps)


def _kind(event: Event) -> str:
    return "the best of many runs" if isinstance(event, Tuned) else "use without a mechanism"


# --- dp-accounting ---------------------------------------------------------------------------------------------------


def events_of_tree(tree: DpEvent, told: Circumstances) -> tuple[Event, ...]:
    """A tree of dp-accounting's events, flattened; equal neighbours are counted together.

    Raises:
        ValueError: An event that midguard has no words for; or nothing happened.
        TypeError: A value of the wrong kind.
    """
    found: list[Event] = []
    for event in _leaves(tree, told, 1, 0):
        if isinstance(event, SampledGaussian) and found and isinstance(found[-1], SampledGaussian):
            last = [cast(SampledGaussian, found.pop())]
            _add(last, event)
            found.extend(last)
        else:
            found.append(event)
        if len(found) > _MAX_LEAVES:
            raise ValueError(f"more than {_MAX_LEAVES} events")
    if not found:
        raise ValueError("nothing happened to the data: a ledger without events proves nothing")
    return tuple(found)


def _leaves(tree: DpEvent, told: Circumstances, count: int, depth: int) -> list[Event]:
    """What happened, in order, each leaf `count` times."""
    from dp_accounting import dp_event as known

    if depth > _MAX_DEPTH:
        raise ValueError(f"events nested more than {_MAX_DEPTH} deep")
    if isinstance(tree, known.NoOpDpEvent):
        return []
    if isinstance(tree, known.NonPrivateDpEvent):
        return [NonPrivate("a non-private event in dp-accounting's records")]
    if isinstance(tree, known.ComposedDpEvent):
        parts = [part for event in tree.events for part in _leaves(event, told, 1, depth + 1)]
        return _repeated(parts, count)
    if isinstance(tree, known.SelfComposedDpEvent):
        return _repeated(_leaves(tree.event, told, _whole(tree.count), depth + 1), count)
    if isinstance(tree, known.RepeatAndSelectDpEvent):
        return _repeated([_tuned(tree, told, depth)], count)
    noise, probability = _gaussian(tree)
    return [told.sums(noise, probability, count)]


def _whole(count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"expected a whole number of repetitions of at least 1, found {count!r}")
    return count


def _repeated(events: list[Event], count: int) -> list[Event]:
    """The same, `count` times over; noisy sums are counted, not copied: in which order they come changes no cost."""
    if count == 1:
        return events
    if all(isinstance(event, SampledGaussian) for event in events):
        return [replace(event, steps=event.steps * count) for event in events if isinstance(event, SampledGaussian)]
    if len(events) * count > _MAX_LEAVES:
        raise ValueError(f"more than {_MAX_LEAVES} events")
    return events * count


def _gaussian(tree: DpEvent) -> tuple[float, float]:
    """Noise multiplier and sampling probability of one noisy sum; anything else is refused, never skipped."""
    from dp_accounting import dp_event as known

    if isinstance(tree, known.GaussianDpEvent):
        return tree.noise_multiplier, 1.0
    if isinstance(tree, known.PoissonSampledDpEvent) and isinstance(tree.event, known.GaussianDpEvent):
        return tree.event.noise_multiplier, tree.sampling_probability
    raise ValueError(f"midguard has no words for the event {type(tree).__name__}: {tree}")


def _tuned(tree: Any, told: Circumstances, depth: int) -> Tuned:
    """The best of a random number of runs, each of one kind of noisy sum."""
    inner = _leaves(tree.event, told, 1, depth + 1)
    if len(inner) != 1 or not isinstance(inner[0], SampledGaussian):
        raise ValueError(f"midguard accounts for the best of runs of one kind of noisy sum, found {len(inner)} events")
    mean, shape = float(tree.mean), float(tree.shape)
    if math.isinf(shape):
        return Tuned(inner[0], Repetitions.POISSON, mean=mean)
    return Tuned(inner[0], Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=shape, gamma=_gamma(mean, shape))


def _gamma(mean: float, eta: float) -> float:
    """γ of the truncated negative binomial of this mean and shape, rounded to the side of more runs."""
    from scipy.optimize import brentq

    def excess(logarithm: float) -> float:
        odds = -logarithm if eta < 1e-12 else -math.expm1(eta * logarithm) / eta
        return math.log(-math.expm1(logarithm)) - logarithm - math.log(odds) - math.log(mean)

    if not mean > 1:
        raise ValueError(f"expected more than one run on average, found a mean of {mean}")
    return math.exp(float(brentq(excess, -500.0, -1e-12, xtol=1e-14, rtol=1e-14))) * (1 - 1e-12)


def tree_of(ledger: Ledger) -> DpEvent:
    """The ledger as dp-accounting's events; what may not be counted as sampled is a Gaussian for each pass."""
    from dp_accounting import ComposedDpEvent

    trees = [_tree(event) for event in ledger.events]
    return trees[0] if len(trees) == 1 else ComposedDpEvent(trees)


def _tree(event: Event) -> DpEvent:
    from dp_accounting import dp_event as known

    if isinstance(event, NonPrivate):
        return known.NonPrivateDpEvent()
    if isinstance(event, Tuned):
        shape = math.inf if event.distribution is Repetitions.POISSON else float(event.eta or 0.0)
        return known.RepeatAndSelectDpEvent(_tree(event.event), event.expected_runs, shape)
    one = known.GaussianDpEvent(event.effective_noise_multiplier)
    if not event.amplified:
        return known.SelfComposedDpEvent(one, event.uses)
    return known.SelfComposedDpEvent(known.PoissonSampledDpEvent(event.sampling_probability, one), event.steps)


def named(tree: DpEvent) -> dict[str, object]:
    """A tree as plain values, in the fields of dp-accounting's own `to_named_tuple`; an infinity is a word."""
    import attr

    fields = {field.name: _plain(getattr(tree, field.name)) for field in attr.fields(type(tree))}
    return {"module_name": type(tree).__module__, "class_name": type(tree).__name__, **fields}


def _plain(value: Any) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "infinity"
    return value if isinstance(value, int | float | str) else named(value)


def tree_of_named(plain: object) -> DpEvent:
    """A tree from plain values. Classes are looked up among dp-accounting's events alone: no module is imported.

    Raises:
        ValueError: No event of dp-accounting, or one with other fields.
        TypeError: No event at all.
    """
    import attr
    from dp_accounting import DpEvent as Base
    from dp_accounting import dp_event as known

    if not isinstance(plain, Mapping):
        raise TypeError(f"expected an event, found {type(plain).__name__}")
    fields = dict(plain)
    module, name = fields.pop("module_name", None), fields.pop("class_name", None)
    found = getattr(known, name, None) if isinstance(name, str) else None
    if module != known.__name__ or not isinstance(found, type) or not issubclass(found, Base) or found is Base:
        raise ValueError(f"{module}.{name} is no event of dp-accounting")
    if set(fields) != {field.name for field in attr.fields(found)}:
        raise ValueError(f"{name} has other fields than {', '.join(fields) or 'none'}")
    return cast("DpEvent", found(**{field: _built(value) for field, value in fields.items()}))


def _built(value: object) -> object:
    if isinstance(value, list):
        return [_built(item) for item in value]
    if value == "infinity":
        return math.inf
    return tree_of_named(value) if isinstance(value, Mapping) else value


# --- files -----------------------------------------------------------------------------------------------------------


def read_events(file: Path, origin: Origin, told: Circumstances) -> tuple[Event, ...]:
    """What another program wrote down, as a ledger's events.

    Args:
        file: For Opacus JSON of an accountant's state, or a checkpoint of `PrivacyEngine.save_checkpoint` or of
            `torch.save(accountant.state_dict())`, of which no code is run; for dp-accounting JSON as `named` gives it.
        origin: Which program.
        told: What it does not say.

    Raises:
        InputError: Not such a file, or something in it that midguard has no words for.
    """
    try:
        state = _json(file) if origin is Origin.DP_ACCOUNTING or file.suffix == ".json" else _checkpoint(file)
        if origin is Origin.DP_ACCOUNTING:
            return events_of_tree(tree_of_named(state), told)
        return events_of_history(_history_in(state), told)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"{file}: no record by {origin} that midguard can read: {error}"
        raise InputError.of(message, "see `midguard ledger import --help` for what it reads") from error


def _json(file: Path) -> object:
    with file.open("rb") as opened:
        content = opened.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError("the file is larger than 256 MiB")
    return json.loads(content.decode("utf-8"), parse_constant=_refuse)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _checkpoint(file: Path) -> object:
    """A torch checkpoint's plain values; nothing in it is run.

    Raises:
        ValueError: It holds anything that would have to be run.
    """
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever the unpickler stops at: such a file is not read
        raise ValueError(
            f"not a checkpoint of plain values ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        ) from error


def _history_in(state: object) -> object:
    """The history in an accountant's state, or in a checkpoint that holds one."""
    if isinstance(state, Mapping) and "privacy_accountant_state_dict" in state:
        state = state["privacy_accountant_state_dict"]
    if not isinstance(state, Mapping) or "history" not in state:
        raise ValueError("it holds no history of an Opacus accountant")
    return state["history"]


def exported(ledger: Ledger, origin: Origin) -> str:
    """The ledger as a file of another program's records.

    Raises:
        InputError: That program has no words for something that happened.
    """
    if origin is Origin.DP_ACCOUNTING:
        document: object = named(tree_of(ledger))
    else:
        document = {"history": history_of(ledger), "mechanism": "prv"}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def imported(subject: Subject, events: tuple[Event, ...], origin: Origin) -> Ledger:
    """A ledger of somebody else's training; a declaration, for midguard did not see it.

    Args:
        subject: The model that came out and the records that it was trained on, as its description names them.
        events: What happened.
        origin: Whose records they are from.

    Raises:
        InputError: The description names no members, or they cannot be read.
    """
    from .. import __version__

    if subject.members is None or subject.members.origin is None:
        hint = "name the records that it was trained on (spec.data.members)"
        raise InputError.of(f"{subject.file}: a ledger is about records, and none are named", hint)
    task = subject.task
    records = subject.members.origin.read(task.shape, task.classes, task.bounds)
    largest = 1 if records.persons is None else _largest(records.persons)
    return Ledger(
        events=events,
        records=len(records),
        data=subject.members.sha256,
        model=subject.model.sha256,
        unit=Unit.RECORD if records.persons is None else Unit.PERSON,
        written_by=f"{origin}, read by midguard {__version__}",
        largest_group=largest,
    )


def _largest(persons: Any) -> int:
    import numpy as np

    return int(np.unique(persons, return_counts=True)[1].max())
