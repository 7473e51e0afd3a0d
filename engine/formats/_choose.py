"""From what a user wrote to the format that reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..document import Document, PathTo, violations
from ..errors import InputError, Location, Problem
from ..registry import load, names, summary
from ._protocol import DataFormat, ModelFormat

if TYPE_CHECKING:
    from ..target import Records

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "patternErrorMessage": "64 hexadecimal digits, lower case"}
_ROWS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 3}
#: What may stand beside any data file.
_COMMON: Mapping[str, object] = {"rows": _ROWS, "sha256": _SHA256}
_BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where a set of records comes from.

    Attributes:
        path: The file or folder; the data set's name for one that scikit-learn ships.
        text: The same as the user wrote it, for people.
        reader: The format, with its parameters.
        rows: Which of the records, by position; `None` for all.
        sha256: The content digest that the user stated; empty for none.
        where: The place in the document.
    """

    path: Path
    text: str
    reader: DataFormat
    rows: range | None
    sha256: str
    where: Location

    @property
    def shipped(self) -> bool:
        """Whether it is a data set of scikit-learn, not a file."""
        return self.reader.key == _BUILTIN

    def read(self, shape: tuple[int, ...], classes: int, bounds: tuple[float, float]) -> Records:
        """The records, checked against the task.

        Raises:
            InputError: They cannot be read, or are not the task's.
        """
        from ._records import chosen, prepared

        try:
            raw = self.reader.read(self.path, shape)
            return prepared(chosen(raw, self.rows), shape, classes, bounds)
        except InputError as error:
            raise self._placed(error) from error

    def refusal(self, message: str, hint: str) -> InputError:
        """An error about this source, at its place."""
        return InputError.of(f"{self.text}: {message}", hint, self.where)

    def _placed(self, error: InputError) -> InputError:
        """The error with the source's name and place in front."""
        return InputError(
            tuple(
                Problem(p.message if self.text in p.message else f"{self.text}: {p.message}", self.where, p.hint)
                for p in error.problems
            )
        )


def choose_data(document: Document, at: PathTo) -> DataSource:
    """The source that a document names at a place: `builtin:digits` or a mapping such as `{file: members.npz}`.

    Relative paths start at the document's folder.

    Raises:
        InputError: An unknown format or field, or no such file, each with its place.
    """
    written = _as_mapping(document, at)
    plugin = _data_format(document, at, written)
    _check_fields(document, at, plugin)
    text = str(written[plugin.key])
    path = Path(text) if plugin.key == _BUILTIN else existing(document, (*at, plugin.key), text)
    return DataSource(
        path=path,
        text=f"{_BUILTIN}:{text}" if plugin.key == _BUILTIN else text,
        reader=_reader(document, at, plugin, written),
        rows=_rows(document, at, written),
        sha256=str(written.get("sha256", "")),
        where=document.place(at),
    )


def choose_model_format(path: Path, where: Location | None = None) -> str:
    """The name of the format that reads a model file, by its suffix.

    Raises:
        InputError: There is none.
    """
    models = _formats("model")
    for name, plugin in models.items():
        if path.suffix.lower() in plugin.suffixes:
            return name
    if path.suffix.lower() == ".pt2":
        message = f"{path}: exported programs (.pt2) are refused: opening a crafted one runs its code"
        raise InputError.of(message, "save the weights alone: torch.save(model.state_dict(), 'model.pt')", where)
    suffixes = ", ".join(suffix for plugin in models.values() for suffix in plugin.suffixes)
    raise InputError.of(f"{path}: no model format of that suffix", f"known are {suffixes}", where)


def model_format(name: str) -> ModelFormat:
    """The model format of that name."""
    return cast("ModelFormat", load("formats", name)())


def data_schema() -> dict[str, object]:
    """JSON Schema (Draft 2020-12) of what a user may write for a set of records."""
    shipped = {
        "type": "string",
        "pattern": f"^{_BUILTIN}:",
        "patternErrorMessage": "builtin:digits or another such name",
    }
    return {"anyOf": [*(_schema_of(plugin, plugin.key) for plugin in _data_formats()), shipped]}


def existing(document: Document, at: PathTo, text: str) -> Path:
    """A path that the document names, relative to the document's folder.

    Raises:
        InputError: There is nothing there.
    """
    path = document.file.parent / Path(text).expanduser()
    if not path.exists():
        raise InputError.of(f"there is no file {path}", "paths start at this file's folder", document.place(at))
    return path


def _formats(holds: str) -> dict[str, Any]:
    """The formats of models or of data, by name."""
    plugins: dict[str, Any] = {name: load("formats", name) for name in names("formats")}
    return {name: plugin for name, plugin in plugins.items() if plugin.holds == holds}


def _data_formats() -> list[type[DataFormat]]:
    """Every data format."""
    return list(_formats("data").values())


def _as_mapping(document: Document, at: PathTo) -> dict[str, object]:
    """What stands there as a mapping; `builtin:name` is short for `{builtin: name}`, also behind `file`."""
    value = document.value(at)
    entry = value if isinstance(value, dict) else {"file": value}
    text = entry.get("file")
    if isinstance(text, str) and text.startswith(f"{_BUILTIN}:"):
        entry = {key: v for key, v in entry.items() if key != "file"} | {_BUILTIN: text.partition(":")[2]}
    elif not isinstance(value, dict):
        hint = "write {file: members.npz}, {x: members_x.npy, y: members_y.npy}, {folder: images} or builtin:digits"
        raise InputError.of(f"expected where the records are, found {value!r}", hint, document.place(at))
    return entry


def _data_format(document: Document, at: PathTo, written: Mapping[str, object]) -> type[DataFormat]:
    """The format that the entry's fields and the file's suffix tell."""
    plugins = _data_formats()
    keys = [plugin for plugin in plugins if plugin.key in written]
    text = str(written.get("file", ""))
    matching = [p for p in keys if p.key != "file" or Path(text).suffix.lower() in p.suffixes]
    if matching:
        return matching[0]
    if keys:
        suffixes = ", ".join(suffix for plugin in keys for suffix in plugin.suffixes)
        hint = "write {x: members_x.npy, y: members_y.npy}" if text.endswith(".npy") else f"known are {suffixes}"
        raise InputError.of(f"{text}: no data format of that suffix", hint, document.place((*at, "file")))
    fields = ", ".join(dict.fromkeys(plugin.key for plugin in plugins))
    raise InputError.of(f"it is not said where the records are: expected one of {fields}", where=document.place(at))


def _check_fields(document: Document, at: PathTo, plugin: type[DataFormat]) -> None:
    """Refuse fields that the format does not have, lacks or could not read."""
    value = document.value(at)
    if not isinstance(value, dict):
        return
    key = plugin.key if plugin.key in value else "file"
    problems = violations(document, _schema_of(plugin, key), at)
    if problems:
        raise InputError(tuple(problems))


def _schema_of(plugin: type[DataFormat], key: str) -> dict[str, object]:
    """JSON Schema of one format's entry whose file is named by `key`."""
    needed = [f.name for f in dataclasses.fields(plugin) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    return {
        "type": "object",
        "description": summary(plugin),
        "properties": {key: {"type": "string"}, **plugin.parameters, **_COMMON},
        "required": [key, *needed],
        "additionalProperties": False,
    }


def _reader(document: Document, at: PathTo, plugin: type[DataFormat], written: Mapping[str, object]) -> DataFormat:
    """The format with its parameters as the user set them."""
    values: dict[str, object] = {}
    for name, schema in plugin.parameters.items():
        if name in written:
            value = written[name]
            path = schema.get("format") == "path"
            values[name] = existing(document, (*at, name), str(value)) if path else _frozen(value)
    return plugin(**values)


def _frozen(value: object) -> object:
    """Lists as tuples, all the way down."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


def _rows(document: Document, at: PathTo, written: Mapping[str, object]) -> range | None:
    """The positions `[start, stop]` or `[start, stop, step]`."""
    if "rows" not in written:
        return None
    numbers = cast("list[int]", written["rows"])
    if (len(numbers) == 3 and numbers[2] == 0) or numbers[0] >= numbers[1]:
        hint = "write rows: [start, stop] or [start, stop, step], counted from 0, stop not included"
        raise InputError.of(f"the rows {numbers} are none", hint, document.place((*at, "rows")))
    return range(*numbers)
