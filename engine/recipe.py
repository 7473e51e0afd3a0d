"""The recipe: how a model is trained, as a file that anybody can read and repeat."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from .architectures import Architecture, choose_architecture
from .defenses import Defense
from .defenses.dp_sgd import DpSgd
from .document import Document, PathTo, read, violations
from .errors import InputError, Problem
from .formats import DataSource, choose_data, existing
from .registry import load, names, suggest
from .search import Search
from .subject import API_VERSION, PARTS, Task, choose_release, choose_task
from .target import Exposure, Release
from .transfer import Initial

KIND = "Recipe"


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """Which optimiser and how it is set.

    Attributes:
        name: `sgd`, `adam` or `adamw`.
        lr: Learning rate, > 0.
        momentum: Of sgd, in [0, 1).
        weight_decay: Strength of the L2 penalty (decoupled for adamw), >= 0.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _one_of("optimizer", self.name, ("sgd", "adam", "adamw"))
        if not 0 < self.lr < math.inf:
            raise ValueError(f"expected lr={self.lr} > 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"expected 0 <= momentum={self.momentum} < 1")
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is set for sgd alone, {self.name} has its own: leave it out")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected weight_decay={self.weight_decay} >= 0")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate changes from epoch to epoch.

    Attributes:
        name: `constant`, `cosine` (towards 0 after the last epoch) or `step` (times `factor` every `every` epochs).
        warmup: Over how many first epochs the rate rises linearly.
        every: Of `step`.
        factor: Of `step`, in (0, 1].
    """

    name: Literal["constant", "cosine", "step"] = "constant"
    warmup: int = 0
    every: int = 30
    factor: float = 0.1

    def __post_init__(self) -> None:
        _one_of("schedule", self.name, ("constant", "cosine", "step"))
        if self.warmup < 0:
            raise ValueError(f"expected warmup={self.warmup} >= 0")
        if self.every < 1:
            raise ValueError(f"expected every={self.every} >= 1")
        if not 0 < self.factor <= 1:
            raise ValueError(f"expected 0 < factor={self.factor} <= 1")

    def share(self, epoch: int, epochs: int) -> float:
        """What part of the learning rate is used in an epoch. Args: epoch from 1 to `epochs`."""
        if epoch <= self.warmup:
            return epoch / (self.warmup + 1)
        if self.name == "constant":
            return 1.0
        done = epoch - 1 - self.warmup
        if self.name == "step":
            return float(self.factor ** (done // self.every))
        return 0.5 * (1 + math.cos(math.pi * done / max(1, epochs - self.warmup)))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How each record is varied each time it is seen.

    Attributes:
        shift: Images are moved by up to that many pixels in each direction; what moves in is the lower bound.
        flip: Images are mirrored left to right, every second time on average.
        noise: Standard deviation of Gaussian noise on each value; the result is clipped to the task's range.
    """

    shift: int = 0
    flip: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"expected shift={self.shift} >= 0")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"expected noise={self.noise} >= 0")


@dataclass(frozen=True, slots=True)
class Split:
    """How one source is dealt out. The shares add up to at most 1.

    Attributes:
        members: Share of the records that is trained on, > 0.
        nonmembers: Share that is never trained on; 0 for none.
        auxiliary: Share that an adversary could own; 0 for none.
        seed: Of the shuffle and of the label noise.
        stratified: Whether each part has the classes in the source's proportions.
    """

    members: float = 0.34
    nonmembers: float = 0.33
    auxiliary: float = 0.33
    seed: int = 0
    stratified: bool = True

    def __post_init__(self) -> None:
        shares = (self.members, self.nonmembers, self.auxiliary)
        if not all(0 <= share <= 1 for share in shares) or not self.members > 0:
            raise ValueError(f"expected shares from 0 to 1, that of the members above 0, found {list(shares)}")
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares):g}, expected at most 1")
        if self.seed < 0:
            raise ValueError(f"expected seed={self.seed} >= 0")


@dataclass(frozen=True, slots=True)
class DataChoice:
    """Where the records come from: one source that is dealt out here, or sets that exist already.

    Attributes:
        source: The one source; `None` where the sets are named.
        members: What is trained on; `None` with `source`.
        nonmembers: Never trained on; may be `None`.
        auxiliary: What an adversary could own; may be `None`.
        public: Records that everybody may know, none of them among the members or nonmembers; may be `None`.
        label_noise: Share of all labels, those of public records apart, that is replaced by another class before
            anything else, in [0, 1).
        split: How `source` is dealt out; its seed is that of the label noise, too.
    """

    source: DataSource | None = None
    members: DataSource | None = None
    nonmembers: DataSource | None = None
    auxiliary: DataSource | None = None
    public: DataSource | None = None
    label_noise: float = 0.0
    split: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        if (self.source is None) == (self.members is None):
            raise ValueError("expected either 'source' (split here) or 'members', one of the two")
        if self.source is not None and (self.nonmembers or self.auxiliary):
            raise ValueError("nonmembers and auxiliary are split off 'source': name them beside 'members' instead")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"expected 0 <= label_noise={self.label_noise} < 1")


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Training on the public records, without a mechanism, before the private ones are touched.

    Attributes:
        epochs: Passes over the public records.
        batch_size: Records a step.
        optimizer: Which optimiser.
        schedule: How its rate changes.
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: OptimizerChoice = field(default_factory=OptimizerChoice)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"expected epochs={self.epochs} >= 1")
        if self.batch_size < 1:
            raise ValueError(f"expected batch_size={self.batch_size} >= 1")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes:
        architecture: The network.
        task: What it tells apart.
        optimizer: Which optimiser.
        schedule: How its rate changes.
        epochs: Passes over the records; under DP, expected passes.
        batch_size: Records a step; under DP, the expected number.
        seed: Of initialisation, order, dropout and augmentation; never of a mechanism's sampling or noise.
        augmentation: How records are varied.
        defense: What protects the records; `None` for plain training.
        release: What the trained model's interface will expose.
        initial: What training starts from; `None` for chance.
        pretraining: Training on the public records before the private ones; `None` for none.
        freeze: Names of layers and parameters that training on the private records leaves as they are.
        search: Settings that are tried; `None` for those of this recipe alone.
        name: The model's name.
        version: The model's version.
        data: Where the records come from; `None` where the caller brings them.
        file: The recipe's file; `None` for one made in a program.
        text: The file's text.
    """

    architecture: Architecture
    task: Task
    optimizer: OptimizerChoice = field(default_factory=OptimizerChoice)
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = 30
    batch_size: int = 64
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    defense: Defense | None = None
    release: Release = field(default_factory=lambda: Release(Exposure.LOGITS))
    initial: Initial | None = None
    pretraining: Pretraining | None = None
    freeze: tuple[str, ...] = ()
    search: Search | None = None
    name: str = "unnamed"
    version: str = "0"
    data: DataChoice | None = None
    file: Path | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"expected epochs={self.epochs} >= 1")
        if self.batch_size < 1:
            raise ValueError(f"expected batch_size={self.batch_size} >= 1")
        if self.seed < 0:
            raise ValueError(f"expected seed={self.seed} >= 0")
        if (self.augmentation.shift or self.augmentation.flip) and len(self.task.shape) != 3:
            raise ValueError(f"shift and flip are for images, these records have shape {list(self.task.shape)}")
        self._check_public()
        self._check_search()

    def _check_public(self) -> None:
        if self.data is None:
            return
        if self.pretraining is not None and self.data.public is None:
            raise ValueError("pretraining needs public records: name them in data.public")
        if self.search is not None and self.data.public is None:
            raise ValueError("a search is scored on public records: name them in data.public")
        if self.data.public is not None and self.pretraining is None and self.search is None:
            raise ValueError("data.public is not used: add pretraining or search, or take it out")

    def _check_search(self) -> None:
        if self.search is None:
            return
        limit = self.defense.max_epsilon if isinstance(self.defense, DpSgd) else math.nan
        if limit is not None and math.isnan(limit):
            raise ValueError("a search pays for what it tries on private records: it needs defense: {name: dp_sgd}")
        if limit is not None:
            raise ValueError("a search ends within target_epsilon: write that instead of max_epsilon")

    @property
    def from_scratch(self) -> bool:
        """Whether it says all about training: from chance, every layer, on the private records alone, once."""
        return not (self.initial or self.pretraining or self.freeze or self.search)


def load_recipe(path: Path, data: bool = True) -> Recipe:
    """Read a recipe file.

    Args:
        path: The file.
        data: Whether its records must be there. A copy beside a model says how to train; its data may be elsewhere.

    Raises:
        InputError: Everything in it that is not acceptable, with its place.
    """
    return _Loader(read(path), data).recipe()


T = TypeVar("T")
_SPEC: PathTo = ("spec",)
_TEXT = {"type": "string", "minLength": 1}
_WHOLE = {"type": "integer", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 1_000_000}


class _Loader:
    """Reads every part of a recipe, and remembers everything that is wrong before it gives up."""

    def __init__(self, document: Document, data: bool) -> None:
        self._document, self._data = document, data
        self._problems = violations(document, _schema())

    def recipe(self) -> Recipe:
        """The recipe, or every problem at once."""
        parts = {
            "architecture": self._part("architecture", choose_architecture),
            "task": self._part("task", choose_task),
            "optimizer": self._part("optimizer", _chooser(OptimizerChoice)),
            "schedule": self._part("schedule", _chooser(Schedule)),
            "augmentation": self._part("augmentation", _chooser(Augmentation)),
            "defense": self._part("defense", _choose_defense),
            "release": self._part("release", choose_release),
            "initial": self._part("initial", self._choose_initial),
            "pretraining": self._part("pretraining", _choose_pretraining),
            "freeze": self._part("freeze", _choose_names),
            "search": self._part("search", _chooser(Search)),
            "data": self._part("data", _choose_data) if self._data else None,
        }
        if self._problems:
            raise InputError(tuple(dict.fromkeys(self._problems)))
        spec = cast("dict[str, Any]", self._document.value(_SPEC))
        numbers = {name: spec[name] for name in ("epochs", "batch_size", "seed") if name in spec}
        metadata = cast("dict[str, str]", self._document.value(("metadata",)))
        given: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
        return _placed(
            self._document,
            _SPEC,
            lambda: Recipe(
                **given,
                **numbers,
                name=metadata["name"],
                version=metadata["version"],
                file=self._document.file,
                text=self._document.text,
            ),
        )

    def _choose_initial(self, document: Document, at: PathTo) -> Initial:
        """The weights to start from; where data need not be there, neither need they."""
        initial = _built(document, at, Initial, named=False)
        path = existing(document, (*at, "file"), str(initial.file)) if self._data else initial.file
        return dataclasses.replace(initial, file=path)

    def _part(self, name: str, choose: Callable[[Document, PathTo], T]) -> T | None:
        """One part of the spec, `None` where it is left out or wrong."""
        at = (*_SPEC, name)
        if at not in self._document.places or self._document.value(at) is None:
            return None
        try:
            return choose(self._document, at)
        except InputError as error:
            self._problems += error.problems
            return None


def _choose_data(document: Document, at: PathTo) -> DataChoice:
    """Where the records come from."""
    written = _mapping(document, at, _DATA_SCHEMA)
    sources: dict[str, Any] = {
        name: choose_data(document, (*at, name)) for name in ("source", *PARTS, "public") if name in written
    }
    if "split" in written:
        sources["split"] = _chooser(Split)(document, (*at, "split"))
    noise = float(written.get("label_noise", 0.0))
    return _placed(document, at, lambda: DataChoice(**sources, label_noise=noise))


def _choose_pretraining(document: Document, at: PathTo) -> Pretraining:
    """How the public records are trained on."""
    written = _mapping(document, at, _PRETRAINING_SCHEMA)
    parts: dict[str, Any] = {
        name: _chooser(kind)(document, (*at, name))
        for name, kind in (("optimizer", OptimizerChoice), ("schedule", Schedule))
        if name in written
    }
    numbers = {name: written[name] for name in ("epochs", "batch_size") if name in written}
    return _placed(document, at, lambda: Pretraining(**parts, **numbers))


def _choose_names(document: Document, at: PathTo) -> tuple[str, ...]:
    """A list of names."""
    problems = violations(document, {"type": "array", "items": _TEXT, "minItems": 1}, at)
    if problems:
        raise InputError(tuple(problems))
    return tuple(cast("list[str]", document.value(at)))


def _choose_defense(document: Document, at: PathTo) -> Defense:
    """The defense that a document names at a place, as in `{name: dp_sgd, target_epsilon: 8}`."""
    name = _mapping(document, at, {"type": "object", "required": ["name"]})["name"]
    if name not in names("defenses"):
        hint = suggest(str(name), names("defenses")) or f"known are {', '.join(names('defenses'))}"
        raise InputError((Problem(f"unknown defense {name!r}", document.place((*at, "name")), hint),))
    defense: Defense = _built(document, at, load("defenses", name), named=True)
    return defense


def _chooser(kind: type[T]) -> Callable[[Document, PathTo], T]:
    """Reads a dataclass of plain values."""
    return lambda document, at: _built(document, at, kind, named=False)


def _built(document: Document, at: PathTo, kind: type[T], named: bool) -> T:
    """A dataclass from the fields that are written at a place; `named`: beside the plugin's `name`."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cast("Any", kind))}
    properties = {name: _schema_of(hint) for name, hint in fields.items()} | ({"name": _TEXT} if named else {})
    missing = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(cast("Any", kind)) if f.default is missing is f.default_factory]
    schema = {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
    written = _mapping(document, at, schema)
    values = {name: _converted(fields[name], value) for name, value in written.items() if name in fields}
    return _placed(document, at, lambda: kind(**values))


def _schema_of(hint: Any) -> dict[str, object]:
    """JSON Schema of one field's type."""
    if typing.get_origin(hint) is Literal:
        # Left to the class itself where it says more than which words it knows.
        return {"type": "string"}
    if typing.get_origin(hint) is types.UnionType:
        return _schema_of(next(part for part in typing.get_args(hint) if part is not types.NoneType))
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _schema_of(typing.get_args(hint)[0])}
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}[hint]}


def _converted(hint: Any, value: Any) -> object:
    """A whole number as a float where a float is meant; lists as tuples, and paths."""
    wanted = typing.get_args(hint) or (hint,)
    if isinstance(value, list):
        return tuple(_converted(wanted[0], entry) for entry in value)
    if hint is Path:
        return Path(value)
    return float(value) if float in wanted and isinstance(value, int) else value


def _mapping(document: Document, at: PathTo, schema: Mapping[str, object]) -> dict[str, Any]:
    """The mapping at a place, checked."""
    problems = violations(document, schema, at)
    if problems:
        raise InputError(tuple(problems))
    return cast("dict[str, Any]", document.value(at))


def _placed(document: Document, at: PathTo, build: Callable[[], T]) -> T:
    """What a value's own check refuses, with its place."""
    try:
        return build()
    except ValueError as error:
        raise InputError.of(str(error), where=document.place(at)) from error


def _one_of(what: str, found: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not known."""
    if found not in known:
        hint = suggest(found, known) or f"expected one of {', '.join(known)}"
        raise ValueError(f"unknown {what} {found!r}, {hint}")


_DATA_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        **{name: {"type": ["object", "string"]} for name in ("source", *PARTS, "public")},
        "label_noise": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        "split": {"type": "object"},
    },
    "additionalProperties": False,
}


_PRETRAINING_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "epochs": _COUNT,
        "batch_size": _COUNT,
        "optimizer": {"type": "object"},
        "schedule": {"type": "object"},
    },
    "additionalProperties": False,
}


def _schema() -> dict[str, object]:
    """The document's frame; its parts are checked one by one."""
    part = {"type": "object"}
    parts = ("architecture", "task", "data", "optimizer", "schedule", "augmentation", "defense", "release")
    others = ("initial", "pretraining", "search")
    numbers = {"epochs": _COUNT, "batch_size": _COUNT, "seed": _WHOLE}
    spec = {**dict.fromkeys((*parts, *others), part), **numbers, "freeze": {"type": "array"}}
    return _object(
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "metadata": _object({"name": _TEXT, "version": _TEXT}, ("name", "version")),
            "spec": _object(spec, ("architecture", "task", "data", "release")),
        },
        ("apiVersion", "kind", "metadata", "spec"),
    )


def _object(properties: Mapping[str, object], required: tuple[str, ...]) -> dict[str, object]:
    """Schema of a mapping that has these fields and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
