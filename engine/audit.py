"""The audit of a training: evidence tests that watch it, and what they leave to be checked.

What is tested is planned before training and kept secret until it is over; then it is scored once. A test that stops or
that could not have found anything is inconclusive, and so shows nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

from . import registry
from .errors import AccountingError, InputError, MidguardError, NotMeasurable
from .ledger import WRITER, AuditBound, AuditResult, EvidenceResult, Ledger, Planted, SampledGaussian
from .target import Records, joined

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from .defenses import Mechanism, Setting, State, StepSeen
    from .ledger import Event

SCHEMA = "https://midguard.dev/schema/audit-v1.json"
#: The error that each evidence test may spend: with six of them, a right training is called wrong in at most 0.6 % of
#: all audits.
LEVEL = 1e-3

_MAX_BYTES = 1 << 20
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Planned:
    """What a test knows before training.

    Attributes:
        shape: Shape of one record.
        classes: How many classes there are.
        bounds: Smallest and largest value of a record's entry.
        records: How many records are trained on, canaries not counted.
        key: From the operating system, for this test alone; everything that it keeps secret is drawn from it.
    """

    shape: tuple[int, ...]
    classes: int
    bounds: tuple[float, float]
    records: int
    key: bytes

    def coins(self, n: int) -> NDArray[bool_]:
        """`(n,)` fair coins (SHAKE-256 of the key)."""
        import numpy as np

        drawn = hashlib.shake_256(self.key + b"coins").digest(n)
        return np.asarray(np.frombuffer(drawn, dtype=np.uint8) % 2 == 1)

    def chance(self) -> np.random.Generator:
        """For everything else that is drawn."""
        import numpy as np

        return np.random.default_rng(int.from_bytes(hashlib.sha256(self.key + b"chance").digest(), "big"))


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one step. Attributes: x: `(n, *shape)`; y: `(n,)`."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is held against the evidence.

    Attributes:
        event: What the ledger says that every step did.
        records: Over how many records the sampler went, canaries that were in counted.
        delta: At which δ lower bounds on ε are reported.
        curve: The highest true-positive rates that the ledger allows at false-positive rates, `(k,)` to `(k,)`.
    """

    event: SampledGaussian
    records: int
    delta: float
    curve: Callable[[NDArray[float64]], NDArray[float64]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a test comes to.

    Attributes:
        statistic: What it looked at.
        p: Its p-value; at most `LEVEL` refutes.
        conclusive: Whether a break of the kind that it looks for would have been found.
        detail: In words.
        bounds: Lower bounds on ε and estimates, for the report.
    """

    statistic: float
    p: float
    conclusive: bool
    detail: str
    bounds: tuple[AuditBound, ...] = ()


@dataclass(frozen=True, slots=True)
class Twin:
    """A copy of the model that is trained, with no defense about it.

    Attributes:
        module: The copy.
        parameters: Those that are trained, in the order of the mechanism's sums.
    """

    module: torch.nn.Module
    parameters: tuple[torch.nn.Parameter, ...]

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The flat gradient of one record by plain backpropagation, float64. Args: x `(*shape,)`; y `()`."""
        import torch

        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(self.module(x[None]), y[None], reduction="sum")
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten().double() for part in found])


@dataclass(frozen=True, slots=True)
class Training:
    """The training that is about to begin.

    Attributes:
        untrained: A copy of the model as it is before the first step.
        module: The model that is trained.
        parameters: Those that are trained, in the order of the mechanism's sums.
        event: What every step is going to do.
    """

    untrained: torch.nn.Module
    module: torch.nn.Module
    parameters: tuple[torch.nn.Parameter, ...]
    event: SampledGaussian

    def twin(self) -> Twin:
        """A copy of the model as it is now."""
        module = copy.deepcopy(self.untrained)
        module.load_state_dict(self.module.state_dict())
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        copies = dict(module.named_parameters())
        return Twin(module, tuple(copies[names[id(parameter)]] for parameter in self.parameters))


class Observer:
    """One evidence test at work on one training; what it does not need it leaves as it is here."""

    #: What it plants: none, unless a test says otherwise.
    planted: Planted = Planted()

    def canaries(self) -> Records | None:
        """Records to be trained on beside the others."""
        return None

    def begins(self, training: Training) -> None:
        """Told before the first step."""

    def before(self, step: int, norm: float, batch: Batch) -> Batch:
        """Told before each step. Args: its number from 0, the clipping norm. Returns: the records that are used."""
        return batch

    def contribute(self, step: int, norm: float) -> Sequence[torch.Tensor] | None:
        """Canaries to be added to the clipped sum, one tensor a parameter."""
        return None

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Told behind each step. Args: what happened, and what all tests together had added to the sum."""

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """What it comes to, once training is over. Args: module as it is released."""
        raise AssertionError("every test comes to something")


@runtime_checkable
class EvidenceTest(Protocol):
    """A test of a training: a frozen dataclass whose fields are its settings, one file each in `attacks/audit/`."""

    source: ClassVar[str]

    def plan(self, planned: Planned) -> Observer:
        """Draw everything that is secret, before training."""
        ...


class Audit:
    """All evidence tests at work on one training; the mechanism's witness.

    Args:
        observers: The tests by name, planned.
        keys: SHA-256 of the key of each.
        delta: At which δ lower bounds on ε are reported.
    """

    def __init__(self, observers: Mapping[str, Observer], keys: Mapping[str, str], delta: float) -> None:
        self._observers, self._keys, self._delta = dict(observers), dict(keys), delta
        #: Tells one audit from every other, and nothing else.
        self.id = os.urandom(16).hex()
        self._stopped: dict[str, str] = {}
        self._norm, self._steps, self._scored = math.nan, 0, False
        self._contributed: list[torch.Tensor] | None = None
        self._setting: Setting
        self._untrained: torch.nn.Module

    @classmethod
    def plan(cls, planned: Planned, delta: float) -> Audit:
        """Every test that midguard has. Args: planned with any key; each test gets its own."""
        observers, keys = {}, {}
        for name in registry.names("audits"):
            key = os.urandom(_KEY_BYTES)
            test = cast(EvidenceTest, registry.load("audits", name)())
            observers[name] = test.plan(replace(planned, key=key))
            keys[name] = hashlib.sha256(key).hexdigest()
        return cls(observers, keys, delta)

    @property
    def planted(self) -> Planted:
        """What all tests together plant."""
        total = Planted()
        for observer in self._observers.values():
            total += observer.planted
        return total

    def with_canaries(self, records: Records) -> Records:
        """The records with the canaries whose coin said so behind them."""
        return joined(records, *(observer.canaries() for observer in self._observers.values()))

    def begins(self, setting: Setting) -> None:
        """Keep the model as it is, before a mechanism takes it over."""
        self._setting, self._untrained = setting, copy.deepcopy(setting.module)

    def watch(self, mechanism: Mechanism) -> Mechanism:
        """The mechanism, watched from its first step to its last.

        Raises:
            InputError: It is none whose steps can be tested.
        """
        events = mechanism.planned()
        if len(events) != 1 or not isinstance(events[0], SampledGaussian):
            raise InputError.of(
                "an audit tests noisy sums of clipped gradients, and this training does something else",
                "name a defense (defense: {name: dp_sgd, target_epsilon: 8}), or leave --audit out",
            )
        parameters = tuple(p for group in self._setting.optimizer.param_groups for p in group["params"])
        training = Training(self._untrained, self._setting.module, parameters, events[0])
        self._each(lambda observer: observer.begins(training))
        return _Watched(mechanism, self, events[0].clipping_norm)

    def before(self, norm: float, batch: Batch) -> Batch:
        """Told by the watched mechanism before each step."""
        self._norm, self._contributed = norm, None
        for name, observer in self._working():
            batch = self._tried(name, partial(observer.before, self._steps, norm, batch)) or batch
        return batch

    def contribute(self, step: int) -> Sequence[torch.Tensor] | None:
        """What all tests together add to the clipped sum."""
        for name, observer in self._working():
            added = self._tried(name, partial(observer.contribute, step, self._norm))
            if added is not None:
                before = self._contributed
                self._contributed = [a if before is None else a + before[i] for i, a in enumerate(added)]
        return self._contributed

    def saw(self, step: StepSeen) -> None:
        """Pass on what happened."""
        self._steps += 1
        self._each(lambda observer: observer.saw(step, self._contributed))

    def score(self, ledger: Ledger, module: torch.nn.Module) -> AuditResult:
        """What every test comes to, when training is over; once, for a second look could choose among outcomes.

        Raises:
            MidguardError: It was asked before.
        """
        if self._scored:
            raise MidguardError("an audit is scored once")
        self._scored = True
        try:
            claimed = self._claimed(ledger)
        except (AccountingError, NotMeasurable, ValueError) as error:
            results = [_open(name, f"there is nothing to hold it against: {error}") for name in self._observers]
        else:
            results = [self._result(name, observer, claimed, module) for name, observer in self._observers.items()]
        return AuditResult(
            tuple(replace(result, key=self._keys[result.name]) for result in results), self.planted, self._delta, LEVEL
        )

    def _result(self, name: str, observer: Observer, claimed: Claimed, module: torch.nn.Module) -> EvidenceResult:
        found = None if name in self._stopped else self._tried(name, lambda: observer.found(claimed, module))
        if found is None:
            return _open(name, f"the test stopped: {self._stopped.get(name, 'it came to nothing')}")
        if math.isnan(found.p) or math.isnan(found.statistic):
            return _open(name, f"it came to no number: {found.detail}")
        # In few digits: they come from secrets, and nobody needs more of them.
        statistic, p = (float(f"{number:.4g}") for number in (found.statistic, found.p))
        return EvidenceResult(name, found.p <= LEVEL, found.conclusive, statistic, p, found.detail, found.bounds)

    def _claimed(self, ledger: Ledger) -> Claimed:
        from .bounds import tpr_bound

        mechanisms = [event for event in ledger.events if isinstance(event, SampledGaussian)]
        if len(mechanisms) != 1 or len(ledger.events) != 1:
            raise ValueError("the ledger holds more than the one training that was watched")
        if self._steps < mechanisms[0].steps:
            raise ValueError(f"only {self._steps} of the ledger's {mechanisms[0].steps} steps were seen")

        def curve(fpr: NDArray[float64]) -> NDArray[float64]:
            allowed = tpr_bound(ledger, fpr)
            if allowed is None:
                raise ValueError("the ledger allows everything")
            return allowed

        curve(_nothing())  # an accountant that fails leaves nothing to hold the evidence against
        return Claimed(mechanisms[0], self._setting.records, self._delta, curve)

    def _each(self, do: Callable[[Observer], None]) -> None:
        """Tell every test that has not stopped."""
        for name, observer in self._working():
            self._tried(name, partial(do, observer))

    def _working(self) -> Iterator[tuple[str, Observer]]:
        """The tests that have not stopped."""
        return ((name, o) for name, o in list(self._observers.items()) if name not in self._stopped)

    def _tried(self, name: str, do: Callable[[], Any]) -> Any:
        """A test that breaks leaves itself inconclusive and the training as it was."""
        try:
            return do()
        except Exception as error:
            self._stopped[name] = f"{type(error).__name__}: {error}"
            return None


def _nothing() -> NDArray[float64]:
    import numpy as np

    return np.zeros(1)


def _open(name: str, why: str) -> EvidenceResult:
    """A test that shows nothing."""
    return EvidenceResult(name, False, False, math.nan, math.nan, why)


class _Watched:
    """A mechanism with an audit beside it. Args: the clipping norm, where the mechanism does not say that it moves."""

    def __init__(self, mechanism: Mechanism, audit: Audit, clipping_norm: float) -> None:
        self._mechanism, self._audit, self._norm = mechanism, audit, clipping_norm

    def batches(self) -> Iterator[torch.Tensor]:
        """As the mechanism gives them."""
        return self._mechanism.batches()

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step on the batch, in which a test may have put a probe in place of a record."""
        state = self._mechanism.state()
        batch = self._audit.before(self._norm if state is None else state.clipping_norm, Batch(x, y))
        return self._mechanism.step(batch.x, batch.y)

    def epsilon(self) -> float | None:
        """As the mechanism says."""
        return self._mechanism.epsilon()

    def state(self) -> State | None:
        """As the mechanism says."""
        return self._mechanism.state()

    def planned(self) -> tuple[Event, ...]:
        """As the mechanism says."""
        return self._mechanism.planned()

    def finish(self) -> tuple[Event, ...]:
        """As the mechanism says."""
        return self._mechanism.finish()


# --- the file --------------------------------------------------------------------------------------------------------


def audit_json(result: AuditResult, model: str, ledger: str, written_by: str) -> str:
    """The text of `audit.json`. Says of no record and no canary whether it was in.

    Args:
        result: What the tests came to.
        model: SHA-256 of the model file that came out of the training.
        ledger: SHA-256 of the ledger file.
        written_by: `midguard <version>`.
    """
    document = {
        "$schema": SCHEMA,
        "model": model,
        "ledger": ledger,
        "written_by": written_by,
        "delta": result.delta,
        "level": result.level,
        "planted": _plain(result.planted),
        "tests": [_plain(test) | {"bounds": [_plain(bound) for bound in test.bounds]} for test in result.tests],
    }
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: Any) -> dict[str, object]:
    """A dataclass as JSON takes it; NaN and infinities are null."""
    fields = {name: getattr(value, name) for name in type(value).__dataclass_fields__}
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in fields.items()}


def read_audit(path: Path, model: str, ledger: str) -> AuditResult:
    """Read an audit file.

    Args:
        path: The file.
        model: SHA-256 of the model that it must be about.
        ledger: SHA-256 of the ledger file that it must be about.

    Raises:
        InputError: Not an audit, somebody else's, or that of another model or ledger.
    """
    hint = "give the audit.json that was written with this model, or train again with --audit"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("the file is larger than 1 MiB")
        document = json.loads(data.decode("utf-8"))
        return _audit(document, model, ledger)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise InputError.of(f"{path}: not an audit of this model that midguard can read: {what}", hint) from error


def _audit(document: dict[str, Any], model: str, ledger: str) -> AuditResult:
    if document.pop("$schema") != SCHEMA:
        raise ValueError(f"expected $schema {SCHEMA}")
    for name, expected in (("model", model), ("ledger", ledger)):
        found = document.pop(name)
        if found != expected:
            raise ValueError(f"it belongs to another {name}: sha256 {found}, expected {expected}")
    writer = document.pop("written_by")
    if not writer.startswith(WRITER):
        raise ValueError(f"it was written by {writer!r}, not by midguard, and shows nothing")
    tests, planted = document.pop("tests"), Planted(**document.pop("planted"))
    result = AuditResult(tuple(_test(entry) for entry in tests), planted, document.pop("delta"), document.pop("level"))
    if document:
        raise ValueError(f"unknown fields {', '.join(document)}")
    return result


def _test(entry: dict[str, Any]) -> EvidenceResult:
    numbers = {name: math.nan if entry[name] is None else float(entry[name]) for name in ("statistic", "p")}
    bounds = tuple(AuditBound(**bound) for bound in entry["bounds"])
    return EvidenceResult(**entry | numbers | {"bounds": bounds})
