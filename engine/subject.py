"""The subject of a check: which model, which data, what the release gives away and what training says it cost."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .architectures import Architecture, architecture_schema, choose_architecture
from .audit import read_audit
from .copies import first_copies, near_copies
from .document import Document, PathTo, read, violations
from .errors import InputError, Location, Problem
from .exposed import Passage, check_layer
from .formats import DataSource, choose_data, choose_model_format, data_schema, existing, model_format
from .ledger import Account, AuditResult, Claim, Ledger, read_ledger
from .target import PASSING, Access, Exposure, Noise, NoiseKind, NoiseSource, Records, Release, Target

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

API_VERSION = "midguard.dev/v1"
KIND = "Subject"
#: The three sets of records, by the names they have in the document.
PARTS = ("members", "nonmembers", "auxiliary")

_BATCH = 1024
_MAX_SIDE = 1 << 20
_MAX_MODEL = 8 << 30
_TRUST = "its code runs with your rights: pass --trust-code if you trust it"


@dataclass(frozen=True, slots=True)
class Task:
    """What the model does.

    Attributes:
        kind: `classification`.
        classes: How many classes it tells apart, at least 2.
        shape: Shape of one record.
        bounds: Smallest and largest value that a record's entry may take.
    """

    kind: str
    classes: int
    shape: tuple[int, ...]
    bounds: tuple[float, float]

    def __post_init__(self) -> None:
        if self.kind != "classification":
            raise ValueError(f"expected kind=classification, found {self.kind}")
        if self.classes < 2:
            raise ValueError(f"expected classes={self.classes} >= 2")
        if not self.shape or any(side < 1 for side in self.shape):
            raise ValueError(f"expected an input of whole numbers of at least 1, found {list(self.shape)}")
        if not -float("inf") < self.bounds[0] < self.bounds[1] < float("inf"):
            raise ValueError(f"expected a range [low, high] with low < high, found {list(self.bounds)}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The model's file; `architecture` or `factory` says how it is built, never both.

    Attributes:
        path: The file.
        sha256: Digest of its bytes.
        format: Name of the format that reads it.
        architecture: The network that the weights belong to.
        factory: `package.module:function`, the user's own code.
    """

    path: Path
    sha256: str
    format: str
    architecture: Architecture | None
    factory: str | None

    def __post_init__(self) -> None:
        if (self.architecture is None) == (self.factory is None):
            raise ValueError("expected either an architecture or a factory")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One set of records.

    Attributes:
        path: The file or folder; `None` for a data set that scikit-learn ships.
        source: What the user wrote, for people.
        sha256: Digest of the records' content (`content_digest`), the same whatever the file format.
        origin: How they are read again; `None` where nobody will.
    """

    path: Path | None
    source: str
    sha256: str
    origin: DataSource | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PreviousFile:
    """The model as it was before its last update.

    Attributes:
        path: The file; its architecture is the model's.
        sha256: Digest of its bytes.
        format: Name of the format that reads it.
        records: What the update learnt from; among the members.
        recipe: How the update was trained; `None` for as the model was.
    """

    path: Path
    sha256: str
    format: str
    records: DataFile
    recipe: Path | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, by name and digest; holds no tensor.

    Attributes:
        file: The document that describes it (`model.yaml`).
        name: The model's name.
        version: Its version.
        sha256: Digest of the document's bytes.
        model: The model's file.
        task: What the model does.
        members: What it was trained on; `None` where the document names none, like the next two.
        nonmembers: Records of the same source that it was never trained on.
        auxiliary: Records that an adversary could own.
        release: What the deployed model gives to whoever asks it.
        recipe: How a reference model is trained; `None` for none.
        account: The ledger and the claim, as far as there are any.
        text: The document.
        previous: The model as it was before its last update; `None` where the document names none.
    """

    file: Path
    name: str
    version: str
    sha256: str
    model: ModelFile
    task: Task
    members: DataFile | None
    nonmembers: DataFile | None
    auxiliary: DataFile | None
    release: Release
    recipe: Path | None
    account: Account
    text: str
    previous: PreviousFile | None = None


@dataclass(frozen=True, slots=True)
class SubjectRecords:
    """The subject's records, each once; `None` where it names none.

    Attributes:
        members: What it was trained on.
        nonmembers: What it was never trained on.
        auxiliary: What an adversary could own.
        rows: By the name of the set, where each of its records stands in the owner's file, from 0.
        update: What the model's last update learnt from.
    """

    members: Records | None
    nonmembers: Records | None
    auxiliary: Records | None
    rows: Mapping[str, NDArray[int64]] = field(default_factory=dict)
    update: Records | None = None


def load_subject(model: Path, subject: Path | None = None) -> Subject:
    """Read the subject's description beside a model, with every digest checked. Loads no torch.

    Args:
        model: The model's file.
        subject: Its description; left out: `<stem>.yaml` or `model.yaml` in the model's folder.

    Raises:
        InputError: Everything in the description that is not acceptable, with its place; a file that is missing or is
            not the one described; records that cannot be read.
    """
    _check_file(model)
    document = read(subject or _beside(model))
    _raise_if(_problems(document))
    task = choose_task(document, (*_SPEC, "task"))
    file = _model_file(document, model)
    data = {name: _data_file(document, (*_SPEC, "data", name), task) for name in PARTS}
    return Subject(
        file=document.file,
        name=str(document.value(("metadata", "name"))),
        version=str(document.value(("metadata", "version"))),
        sha256=document.sha256,
        model=file,
        task=task,
        members=data["members"],
        nonmembers=data["nonmembers"],
        auxiliary=data["auxiliary"],
        release=_choose_subject_release(document, (*_SPEC, "release")),
        recipe=_named_file(document, (*_SPEC, "training", "recipe")),
        account=_account(document, file, data["members"]),
        text=document.text,
        previous=_previous(document, task, file),
    )


def load_records(subject: Subject) -> SubjectRecords:
    """Read the subject's records, checked and disjoint, each once. Loads no torch.

    Raises:
        InputError: They cannot be read, are not those that the subject was loaded with, overlap, are near copies of
            each other, or are not as many as the ledger says.
    """
    files = {name: getattr(subject, name) for name in PARTS}
    records = {name: None if file is None else _read_again(file, subject.task) for name, file in files.items()}
    named = {name: part for name, part in records.items() if part is not None}
    _refuse_overlap(subject, named)
    _refuse_short_ledger(subject, records["members"])
    _refuse_large_batch(subject, records["members"])
    # A record that stands twice in a set is one record: counted twice, it would narrow every interval.
    rows = {name: first_copies(part.x) for name, part in named.items()}
    single = {name: part.take(rows[name]) for name, part in named.items()}
    _refuse_near_copies(subject, single)
    update = _update(subject, single.get("members"))
    return SubjectRecords(single.get("members"), single.get("nonmembers"), single.get("auxiliary"), rows, update)


def _update(subject: Subject, members: Records | None) -> Records | None:
    """What the last update learnt from; every record of it must be a member.

    Raises:
        InputError: One is not.
    """
    if subject.previous is None:
        return None
    file = subject.previous.records
    update = _read_again(file, subject.task)
    update = update.take(first_copies(update.x))
    known = set() if members is None else set(record_digests(members.x))
    strange = [position for position, digest in enumerate(record_digests(update.x)) if digest not in known]
    if strange or not len(update):
        message = f"{len(strange)} of {len(update)} records of the update are not among the members"
        hint = "an update's records are what the model learnt from: name them among the members, too"
        raise InputError.of(message, hint, cast("DataSource", file.origin).where)
    return update


def load_module(subject: Subject, trust_code: bool = False) -> torch.nn.Module:
    """The model, in evaluation mode, frozen and checked.

    The bytes are read once: those that are hashed are those that are loaded. No code in the file is run. A factory is
    the user's own code and runs only where `trust_code` says so.

    Raises:
        InputError: The file is not the one described or not acceptable, its tensors are not the architecture's, or the
            model does not give one finite logit a class.
    """
    return _loaded(subject, subject.model, trust_code)


def load_previous(subject: Subject, trust_code: bool = False) -> torch.nn.Module:
    """The model as it was before its last update, checked like the model.

    Raises:
        InputError: As for `load_module`.
    """
    if subject.previous is None:
        raise InputError.of(f"{subject.file}: it names no previous model", "name it under spec.release.previous")
    return _loaded(subject, subject.previous, trust_code)


def _loaded(subject: Subject, file: ModelFile | PreviousFile, trust_code: bool) -> torch.nn.Module:
    from .formats._torch_weights import check_answers, fit_weights

    task = subject.task
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise InputError.of(f"{file.path}: the model file changed while it was being checked", "start again")
    if subject.model.factory is not None and not trust_code:
        raise InputError.of(f"{subject.file}: the model is built by {subject.model.factory}", _TRUST)
    tensors = model_format(file.format).read(content, file.path)
    module = _build(subject)
    fit_weights(module, tensors, file.path)
    module.eval().requires_grad_(False)
    check_answers(module, task.shape, task.classes, task.bounds, file.path)
    _refuse_unknown_layer(subject, module)
    return module


def _refuse_unknown_layer(subject: Subject, module: torch.nn.Module) -> None:
    """Refuse a release of activations that names a layer which the model does not have, or which is none."""
    if subject.release.layer:
        try:
            check_layer(module, subject.release.layer, subject.task.shape)
        except LookupError as error:
            where = read(subject.file).place((*_SPEC, "release", "layer"))
            raise InputError.of(str(error.args[0]), "correct spec.release.layer", where) from error


def make_target(
    task: Task,
    release: Release,
    access: Access,
    auxiliary: Records | None,
    module: Callable[[], torch.nn.Module],
    known: Sequence[tuple[NDArray[float32], NDArray[float64]]] = (),
    noise_seed: int = 0,
) -> Target:
    """The target as one adversary sees it.

    Args:
        task: What the model does.
        release: What a query returns.
        access: What the adversary holds.
        auxiliary: Records that the adversary owns.
        module: Called once, for the first look at the model, which is moved to the GPU where there is one.
        known: What the model was found to answer on some arrays of records: whoever asks about the very same array is
            answered from here, and it counts as asked.
        noise_seed: What the noise of the release is drawn from.
    """

    @cache
    def placed() -> torch.nn.Module:
        import torch

        return module().eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")

    def answered(x: NDArray[float32]) -> NDArray[float64]:
        remembered = [logits for seen, logits in known if seen is x]
        return remembered[0] if remembered else logits_of(placed(), x, task.classes)

    return Target(
        release=release,
        access=access,
        shape=task.shape,
        classes=task.classes,
        bounds=task.bounds,
        auxiliary=auxiliary,
        _logits=answered,
        _module=placed,
        noise=NoiseSource(noise_seed),
        _passing=Passage(release, placed) if release.exposes in PASSING else None,
    )


def content_digest(records: Records) -> str:
    """SHA-256 of the records' content: shape, x as float32, y as int64; the same whatever file they came from."""
    from .formats._records import content_digest as digest

    return digest(records)


def record_digests(x: NDArray[float32]) -> list[bytes]:
    """SHA-256 of each record's values, without its class. Args: x `(n, *shape)`."""
    from .formats._records import record_digests as digests

    return digests(x)


def choose_task(document: Document, at: PathTo) -> Task:
    """The task that a document describes at a place.

    Raises:
        InputError: What is not acceptable, with its place.
    """
    _raise_if(violations(document, TASK_SCHEMA, at))
    written = cast("dict[str, Any]", document.value(at))
    low, high = written["range"]
    with _placed(document, at):
        return Task(written["kind"], written["classes"], tuple(written["input"]), (float(low), float(high)))


def _choose_subject_release(document: Document, at: PathTo) -> Release:
    """The release of a model that may have an earlier version."""
    return choose_release(document, at, _subject_release_schema({"type": ["object", "string"]}))


def choose_release(document: Document, at: PathTo, schema: Mapping[str, object] | None = None) -> Release:
    """The release that a document describes at a place.

    Raises:
        InputError: What is not acceptable, with its place.
    """
    _raise_if(violations(document, schema or RELEASE_SCHEMA, at))
    written = cast("dict[str, Any]", document.value(at))
    with _placed(document, at):
        return _release(written)


def _release(written: dict[str, Any]) -> Release:
    noise, clip = written.get("noise"), written.get("clip")
    return Release(
        exposes=Exposure(written["exposes"]),
        top=written.get("top"),
        decimals=written.get("decimals"),
        noise=None
        if noise is None
        else Noise(NoiseKind(noise["kind"]), float(noise["scale"]), noise.get("per", "query")),
        layer=written.get("layer", ""),
        batch=written.get("batch", 1),
        clip=None if clip is None else float(clip),
    )


def release_document(release: Release) -> dict[str, object]:
    """A release as `choose_release` reads it; what is not set is left out."""
    noise = release.noise
    written: dict[str, object] = {
        "exposes": str(release.exposes),
        "top": release.top,
        "decimals": release.decimals,
        "noise": None if noise is None else {"kind": str(noise.kind), "scale": noise.scale, "per": noise.per},
        "layer": release.layer or None,
        "batch": None if release.batch == 1 else release.batch,
        "clip": release.clip,
    }
    return {name: value for name, value in written.items() if value is not None}


def subject_schema() -> dict[str, object]:
    """JSON Schema (Draft 2020-12) of `model.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://midguard.dev/schema/subject-v1.json",
        "title": "What midguard checks: a model, its data, its release and its claims",
        **_schema(architecture_schema(), data_schema(), TASK_SCHEMA, _subject_release_schema(data_schema())),
    }


_SPEC = ("spec",)
_TEXT = {"type": "string", "minLength": 1}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "patternErrorMessage": "64 hexadecimal digits, lower case"}
_FACTORY = {
    "type": "string",
    "pattern": r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
    "patternErrorMessage": "package.module:function",
}

TASK_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["classification"]},
        "classes": {"type": "integer", "minimum": 2, "maximum": 1_000_000},
        "input": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": _MAX_SIDE},
            "minItems": 1,
            "maxItems": 4,
        },
        "range": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["kind", "classes", "input", "range"],
    "additionalProperties": False,
}

RELEASE_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "exposes": {"enum": [str(exposure) for exposure in Exposure]},
        "top": {"type": "integer", "minimum": 1},
        "decimals": {"type": "integer", "minimum": 0, "maximum": 17},
        "noise": {
            "type": "object",
            "properties": {
                "kind": {"enum": [str(kind) for kind in NoiseKind]},
                "scale": {"type": "number", "exclusiveMinimum": 0},
                "per": {"enum": ["query", "record"]},
            },
            "required": ["kind", "scale"],
            "additionalProperties": False,
        },
        "layer": {"type": "string", "minLength": 1},
        "batch": {"type": "integer", "minimum": 1},
        "clip": {"type": "number", "exclusiveMinimum": 0},
    },
    "required": ["exposes"],
    "additionalProperties": False,
}


def _subject_release_schema(data: Mapping[str, object]) -> dict[str, object]:
    """A release, and the model as it was before its last update."""
    previous = _object(
        {"file": _TEXT, "sha256": _SHA256, "records": data, "recipe": _TEXT}, required=("file", "records")
    )
    properties = cast("dict[str, object]", RELEASE_SCHEMA["properties"])
    return {**RELEASE_SCHEMA, "properties": {**properties, "previous": previous}}


def _object(properties: Mapping[str, object], required: tuple[str, ...] = ()) -> dict[str, object]:
    """Schema of a mapping that has these fields and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _schema(
    architecture: Mapping[str, object],
    data: Mapping[str, object],
    task: Mapping[str, object],
    release: Mapping[str, object],
) -> dict[str, object]:
    """The document's schema around those of its parts, which are checked one by one for the sake of their messages."""
    model = _object(
        {"file": _TEXT, "sha256": _SHA256, "architecture": architecture, "factory": _FACTORY}, required=("file",)
    )
    claims = _object(
        {
            "epsilon": {"type": "number", "minimum": 0},
            "delta": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        },
        required=("epsilon", "delta"),
    )
    spec = {
        "model": model,
        "task": task,
        "data": _object(dict.fromkeys(PARTS, data)),
        "release": release,
        "training": _object({"recipe": _TEXT}, required=("recipe",)),
        "ledger": {"anyOf": [_TEXT, _object({"file": _TEXT, "sha256": _SHA256}, required=("file",))]},
        "audit": _object({"file": _TEXT, "sha256": _SHA256}, required=("file", "sha256")),
        "claims": claims,
    }
    return _object(
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "metadata": _object({"name": _TEXT, "version": _TEXT}, required=("name", "version")),
            "spec": _object(spec, required=("model", "task", "release")),
        },
        required=("apiVersion", "kind", "metadata", "spec"),
    )


def _problems(document: Document) -> list[Problem]:
    """Everything in the description that is not acceptable."""
    part = {"type": "object"}
    problems = violations(document, _schema(part, {"type": ["object", "string"]}, part, part))
    problems += _building_problems(document)
    choices: list[tuple[PathTo, Callable[[Document, PathTo], object]]] = [
        ((*_SPEC, "model", "architecture"), choose_architecture),
        ((*_SPEC, "task"), choose_task),
        *(((*_SPEC, "data", name), choose_data) for name in PARTS),
        ((*_SPEC, "release"), _choose_subject_release),
        ((*_SPEC, "release", "previous", "records"), choose_data),
    ]
    for at, choose in choices:
        if isinstance(_optional(document, at), dict | str):
            problems += _complaints(lambda at=at, choose=choose: choose(document, at))  # type: ignore[misc]
    return list(dict.fromkeys(problems))


def _building_problems(document: Document) -> list[Problem]:
    """The model needs an architecture or a factory, not both."""
    at = (*_SPEC, "model")
    model = _optional(document, at)
    if not isinstance(model, dict) or ("architecture" in model) != ("factory" in model):
        return []
    hint = "write architecture: {name: mlp} or factory: package.module:function"
    message = "both an architecture and a factory" if "factory" in model else "it is not said how the model is built"
    return [Problem(message, document.place(at), hint)]


def _optional(document: Document, at: PathTo) -> object:
    """The value at a place, `None` where there is none."""
    try:
        return document.value(at)
    except (KeyError, IndexError, TypeError):
        return None


def _complaints(choose: Callable[[], object]) -> tuple[Problem, ...]:
    """What is wrong with one part."""
    try:
        choose()
    except InputError as error:
        return error.problems
    return ()


def _raise_if(problems: list[Problem]) -> None:
    """Refuse where there is any problem."""
    if problems:
        raise InputError(tuple(problems))


@contextmanager
def _placed(document: Document, at: PathTo) -> Iterator[None]:
    """What a value's own check refuses, with its place."""
    try:
        yield
    except ValueError as error:
        raise InputError.of(str(error), where=document.place(at)) from error


def _check_file(model: Path) -> None:
    """Refuse what is no file, or one that is too large to be read as a whole."""
    if not model.is_file():
        what = "this is a folder" if model.is_dir() else "there is no such file"
        raise InputError.of(f"{model}: {what}", "name the model's file")
    if model.stat().st_size > _MAX_MODEL:
        raise InputError.of(f"{model}: the file is larger than {_MAX_MODEL >> 30} GiB", "is this the model?")


def _beside(model: Path) -> Path:
    """The description beside a model."""
    candidates = (model.with_suffix(".yaml"), model.with_name("model.yaml"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = " or ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    hint = (
        f"write {names}, or name it with --subject: it says what the model does, on which data, and how it is released"
    )
    raise InputError.of(f"{model}: nothing describes this model", hint)


def _model_file(document: Document, model: Path) -> ModelFile:
    """The model's file, if it is the one that the document describes."""
    at = (*_SPEC, "model")
    written = cast("dict[str, Any]", document.value(at))
    named = existing(document, (*at, "file"), written["file"])
    if not named.samefile(model):
        message = f"this describes {named}, not {model}"
        raise InputError.of(
            message, "check the model that it describes, or name another with --subject", document.place((*at, "file"))
        )
    found = _digest(model, document.place((*at, "file")))
    _check_stated(document, at, found, f"the model file {model}")
    architecture = choose_architecture(document, (*at, "architecture")) if "architecture" in written else None
    kind = choose_model_format(model, document.place((*at, "file")))
    return ModelFile(model, found, kind, architecture, written.get("factory"))


def _previous(document: Document, task: Task, model: ModelFile) -> PreviousFile | None:
    """The model before its last update, by digest; `None` where the document names none."""
    at: PathTo = (*_SPEC, "release", "previous")
    if _optional(document, at) is None:
        return None
    path = existing(document, (*at, "file"), str(document.value((*at, "file"))))
    found = _digest(path, document.place((*at, "file")))
    _check_stated(document, at, found, f"the previous model {path}")
    if found == model.sha256:
        hint = "name the file as it was before the update"
        raise InputError.of(f"{path}: the previous model is this model", hint, document.place((*at, "file")))
    records = cast("DataFile", _data_file(document, (*at, "records"), task))
    recipe = _named_file(document, (*at, "recipe")) or _named_file(document, (*_SPEC, "training", "recipe"))
    if recipe is None:
        hint = "name the recipe of the update (spec.release.previous.recipe) or of the training"
        raise InputError.of("it is not said how the update was trained", hint, document.place(at))
    kind = choose_model_format(path, document.place((*at, "file")))
    return PreviousFile(path, found, kind, records, recipe)


def _digest(path: Path, where: Location) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError.of(f"{path}: it cannot be read ({error.strerror})", "check its permissions", where) from error


def _check_stated(document: Document, at: PathTo, found: str, what: str) -> None:
    """Refuse what is not what it was when its digest was written down."""
    written = document.value(at)
    stated = written.get("sha256") if isinstance(written, dict) else None
    if stated is not None and stated != found:
        message = f"{what} is not the one that this subject describes: expected sha256 {stated}, found {found}"
        hint = "if it was replaced on purpose, write the new digest"
        raise InputError.of(message, hint, document.place((*at, "sha256")))


def _data_file(document: Document, at: PathTo, task: Task) -> DataFile | None:
    """One set of records by the digest of its content; `None` where the document names none."""
    if _optional(document, at) is None:
        return None
    source = choose_data(document, at)
    found = content_digest(source.read(task.shape, task.classes, task.bounds))
    _check_stated(document, at, found, f"the content of {source.text}")
    return DataFile(None if source.shipped else source.path, source.text, found, source)


def _named_file(document: Document, at: PathTo) -> Path | None:
    """A file that the document names, `None` where it names none."""
    text = _optional(document, at)
    return None if text is None else existing(document, at, str(text))


def _ledger(document: Document, model: ModelFile, members: DataFile | None) -> Ledger | None:
    """The ledger, if it is that of this model and these records."""
    at: PathTo = (*_SPEC, "ledger")
    written = _optional(document, at)
    if written is None:
        return None
    name = (*at, "file") if isinstance(written, dict) else at
    path = existing(document, name, str(document.value(name)))
    _check_stated(document, at, _digest(path, document.place(name)), f"the ledger {path}")
    ledger = read_ledger(path)
    pairs = [("model", ledger.model, model.sha256)]
    pairs += [("data", ledger.data, members.sha256)] if members is not None else []
    for what, stated, found in pairs:
        if stated != found:
            message = f"{path}: this ledger belongs to another model: its {what} has sha256 {stated}, found {found}"
            hint = "give the ledger that was written with this model, or take it out"
            raise InputError.of(message, hint, document.place(name))
    return ledger


def _account(document: Document, model: ModelFile, members: DataFile | None) -> Account:
    """Everything that is known of the privacy loss."""
    audit = _audit(document, model)
    return Account(_ledger(document, model, members), _claim(document), audit=audit)


def _audit(document: Document, model: ModelFile) -> AuditResult | None:
    """What the evidence tests said, if they watched the training of this model with this ledger."""
    at: PathTo = (*_SPEC, "audit")
    if _optional(document, at) is None:
        return None
    path = existing(document, (*at, "file"), str(document.value((*at, "file"))))
    _check_stated(document, at, _digest(path, document.place((*at, "file"))), f"the audit {path}")
    written = _optional(document, (*_SPEC, "ledger"))
    if written is None:
        hint = "name the ledger that was written with it (spec.ledger)"
        raise InputError.of(f"{path}: an audit is about a ledger, and none is named", hint, document.place(at))
    name = (*_SPEC, "ledger", "file") if isinstance(written, dict) else (*_SPEC, "ledger")
    ledger = existing(document, name, str(document.value(name)))
    return read_audit(path, model.sha256, _digest(ledger, document.place(name)))


def _claim(document: Document) -> Claim | None:
    """What the document claims of the privacy loss."""
    written = _optional(document, (*_SPEC, "claims"))
    if not isinstance(written, dict):
        return None
    return Claim(float(written["epsilon"]), float(written["delta"]))


def _read_again(file: DataFile, task: Task) -> Records:
    """The records, if they are still those that were digested."""
    if file.origin is None:
        raise InputError.of(
            f"{file.source}: it is not known how these records are read", "load the subject from its file"
        )
    records = file.origin.read(task.shape, task.classes, task.bounds)
    if content_digest(records) != file.sha256:
        raise file.origin.refusal("the records changed while they were being checked", "start again")
    return records


def _refuse_overlap(subject: Subject, records: Mapping[str, Records]) -> None:
    """Refuse sets that share records: a record cannot be trained on and never seen."""
    digests = {name: record_digests(part.x) for name, part in records.items()}
    problems = []
    for one, other in combinations(digests, 2):
        first = {digest: position for position, digest in reversed(list(enumerate(digests[one])))}
        shared = [position for position, digest in enumerate(digests[other]) if digest in first]
        if shared:
            at = f"{other} {shared[0]} is {one} {first[digests[other][shared[0]]]}"
            message = f"{len(shared)} of {len(digests[other])} {other} are among the {one}, the first: {at}"
            origin = getattr(subject, other).origin
            problems.append(
                Problem(message, origin.where, "take them out of one of the two, and train again if need be")
            )
    _raise_if(problems)


def _refuse_near_copies(subject: Subject, records: Mapping[str, Records]) -> None:
    """Refuse nonmembers that were as good as trained on: attacks would find no difference, and a leak would pass."""
    members, nonmembers = records.get("members"), records.get("nonmembers")
    if members is None or nonmembers is None:
        return
    near = near_copies(members, nonmembers)
    if near:
        message = f"{near} of the nonmembers that were compared are near copies of members, so they are not unseen"
        hint = "name nonmembers of other people, scenes or sources than the members"
        raise InputError.of(message, hint, cast("DataSource", cast("DataFile", subject.nonmembers).origin).where)


def _refuse_short_ledger(subject: Subject, members: Records | None) -> None:
    """Refuse a ledger over another number of records than the members are: its δ and its rates would mean nothing.

    An audit's canaries count among the ledger's records and are no members.
    """
    ledger, audit = subject.account.ledger, subject.account.audit
    planted = 0 if audit is None else audit.planted.records
    if ledger is not None and members is not None and ledger.records != len(members) + planted:
        canaries = f" with {planted} canaries" if planted else ""
        message = (
            f"{subject.file}: the ledger is over {ledger.records} records, the members are {len(members)}{canaries}"
        )
        raise InputError.of(message, "give the ledger that was written with this model, or take it out")


def _refuse_large_batch(subject: Subject, members: Records | None) -> None:
    """Refuse a release of gradients of more records at a time than there are: no gradient would ever be looked at."""
    batch = subject.release.batch
    if members is not None and batch > len(members):
        where = read(subject.file).place((*_SPEC, "release", "batch"))
        message = f"gradients of {batch} records at a time, but there are {len(members)} members"
        raise InputError.of(message, f"name a batch of at most {len(members)}", where)


def _build(subject: Subject) -> torch.nn.Module:
    """The network without its weights; torch's global generator is left as it was."""
    import torch

    architecture, task = subject.model.architecture, subject.task
    with torch.random.fork_rng(devices=[]):
        if architecture is None:
            return _run_factory(subject)
        try:
            return architecture.build(task.shape, task.classes)
        except ValueError as error:
            raise InputError.of(f"{subject.file}: {error}") from error


def _run_factory(subject: Subject) -> torch.nn.Module:
    """Call the user's own code, found beside the description or installed."""
    import torch

    name = str(subject.model.factory)
    module, _, function = name.partition(":")
    try:
        with _importable(subject.file.resolve().parent):
            built = getattr(import_module(module), function)()
    except Exception as error:  # the user's code may raise anything; whatever it is, there is no model
        message = f"{subject.file}: the factory {name} failed: {type(error).__name__}: {error}"
        raise InputError.of(message, "it is called without arguments and returns a torch.nn.Module") from error
    if not isinstance(built, torch.nn.Module):
        message = f"{subject.file}: the factory {name} returned a {type(built).__name__}"
        raise InputError.of(message, "expected a torch.nn.Module")
    return built


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in this folder can be imported; installed ones come first."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def logits_of(module: torch.nn.Module, x: NDArray[float32], classes: int) -> NDArray[float64]:
    """Logits of records, batch by batch. Whatever is not finite is passed on, never replaced.

    Returns:
        `(n, classes)` float64.
    """
    import numpy as np
    import torch

    first = next(module.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    answers = np.empty((len(x), classes), dtype=np.float64)
    with torch.no_grad():
        for start in range(0, len(x), _BATCH):
            batch = torch.tensor(x[start : start + _BATCH], dtype=torch.float32, device=device)
            answers[start : start + _BATCH] = module(batch).double().cpu().numpy()
    return answers
