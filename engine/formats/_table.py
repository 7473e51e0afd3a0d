"""Tables as records. Imports numpy and pyarrow: to be imported inside functions only."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from ..registry import suggest
from ._protocol import RawRecords


def read_csv(path: Path) -> pa.Table:
    """A CSV file with a header.

    Raises:
        InputError: It is no such file.
    """
    from pyarrow import csv

    # Only an empty field is missing: 'NA' or 'null' might be a category.
    options = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    try:
        with path.open("rb") as file:
            return csv.read_csv(file, convert_options=options)
    except Exception as error:  # a damaged file may raise anything; whatever it is, the file is refused
        raise InputError.of(
            f"{path}: not a CSV file that can be read ({error})", "one record a line, under a header"
        ) from error


def read_parquet(path: Path) -> pa.Table:
    """A Parquet file.

    Raises:
        InputError: It is no such file.
    """
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            return parquet.ParquetFile(file).read()
    except Exception as error:  # as above
        raise InputError.of(f"{path}: not a Parquet file that can be read ({error})", "write it again") from error


def from_table(
    table: pa.Table,
    label: str,
    columns: tuple[str, ...] | None,
    categories: Mapping[str, tuple[str, ...]],
    path: Path,
    shape: tuple[int, ...],
    person: str | None = None,
) -> RawRecords:
    """A table's columns as records, categorical ones spread over one place a category.

    Raises:
        InputError: Columns or values that are not there, or not as many of them as a record has entries.
    """
    apart = (label,) if person is None else (label, person)
    chosen = columns if columns is not None else tuple(name for name in table.column_names if name not in apart)
    _check_columns(table, (*apart, *chosen, *categories), chosen, apart, path)
    parts = [_entries(table, name, categories.get(name), path) for name in chosen]
    x = np.concatenate(parts, axis=1) if parts else np.zeros((table.num_rows, 0))
    if x.shape[1] != prod(shape):
        wide = f"{x.shape[1]} values a record from {len(chosen)} columns"
        hint = "list 'columns', their 'categories', or correct spec.task.input"
        raise InputError.of(f"{path}: {wide}, the task expects {list(shape)} = {prod(shape)}", hint)
    y = _classes(table, label, categories.get(label), path)
    persons = None if person is None else _persons(table, person, path)
    return RawRecords(x.reshape(-1, *shape), y, classes=categories.get(label), persons=persons)


def _check_columns(
    table: pa.Table, names: tuple[str, ...], chosen: tuple[str, ...], apart: tuple[str, ...], path: Path
) -> None:
    """Refuse names that the table does not have or has twice, and a label or person among the columns."""
    known = list(table.column_names)
    for name in names:
        if known.count(name) != 1:
            found = "there is no column" if name not in known else "there are several columns"
            hint = suggest(name, known) or f"known are {', '.join(known[:20])}"
            raise InputError.of(f"{path}: {found} {name!r}", hint)
    for what, name in zip(("label", "person"), apart, strict=False):
        if name in chosen:
            raise InputError.of(f"{path}: the {what} {name!r} is among the columns that the model reads", "take it out")
    if len(set(apart)) < len(apart):
        raise InputError.of(f"{path}: {apart[0]!r} is both the label and the person", "name two columns")


def _entries(table: pa.Table, name: str, values: tuple[str, ...] | None, path: Path) -> NDArray[np.float64]:
    """One column as `(n, k)` numbers, k = 1 or one place a category."""
    _check_complete(table, name, path)
    if values is not None:
        return np.eye(len(values))[_positions(table, name, values, path)]
    numbers = _numbers(table, name, path)
    return numbers.astype(np.float64).reshape(-1, 1)


def _classes(table: pa.Table, label: str, values: tuple[str, ...] | None, path: Path) -> NDArray[Any]:
    """The label column as class numbers."""
    _check_complete(table, label, path)
    return _numbers(table, label, path) if values is None else _positions(table, label, values, path)


def _persons(table: pa.Table, name: str, path: Path) -> NDArray[Any]:
    """Whose record each one is, by number or by name."""
    _check_complete(table, name, path)
    column = table.column(name)
    kind = column.type
    if pa.types.is_integer(kind):
        array: NDArray[Any] = column.to_numpy()
        return array
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([str(value) for value in column.to_pylist()])
    raise InputError.of(f"{path}: column {name!r} holds {kind}, expected numbers or names of persons", "write them so")


def _check_complete(table: pa.Table, name: str, path: Path) -> None:
    """Refuse missing values."""
    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        message = f"{path}: {column.null_count} values of column {name!r} are missing, the first in record {row}"
        raise InputError.of(message, "fill them or take the records out, as was done for training")


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[Any]:
    """A numeric column."""
    column = table.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        hint = f"list its values in order: categories: {{{name}: [...]}}"
        raise InputError.of(f"{path}: column {name!r} holds {kind}, not numbers", hint)
    array: NDArray[Any] = column.to_numpy()
    return array


def _positions(table: pa.Table, name: str, values: tuple[str, ...], path: Path) -> NDArray[np.int64]:
    """Where each value of a categorical column stands in the list of them."""
    order = {value: place for place, value in enumerate(values)}
    written = [str(value) for value in table.column(name).to_pylist()]
    unknown = [row for row, value in enumerate(written) if value not in order]
    if unknown:
        first = unknown[0]
        value = written[first]
        message = (
            f"{path}: {len(unknown)} values of column {name!r} are not in its categories, {value!r} in record {first}"
        )
        raise InputError.of(message, suggest(value, list(values)) or "list every value that occurs")
    return np.array([order[value] for value in written], dtype=np.int64)
