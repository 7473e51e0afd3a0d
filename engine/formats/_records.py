"""From what a file holds to records that can be trusted. Imports numpy: to be imported inside functions only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..target import Records
from ._protocol import Extent, RawRecords

_CHUNK = 4096


def chosen(raw: RawRecords, rows: range | None) -> RawRecords:
    """The records at these positions.

    Raises:
        InputError: There are not that many.
    """
    if rows is None:
        return raw
    if rows[-1] >= min(len(raw.x), len(raw.y)):
        raise InputError.of(f"it has {len(raw.x)} records, rows go up to {rows[-1] + 1}", "correct 'rows'")
    part = slice(rows.start, rows.stop, rows.step)
    persons = None if raw.persons is None else raw.persons[part]
    return replace(raw, x=raw.x[part], y=raw.y[part], persons=persons)


def prepared(raw: RawRecords, shape: tuple[int, ...], classes: int, bounds: tuple[float, float]) -> Records:
    """Records of the task's shape, classes and range, as float32 and int64.

    Raises:
        InputError: Empty, x and y of different lengths, another shape, objects, NaN, infinities, values outside the
            range, labels that are no class numbers, persons that are neither numbers nor names.
    """
    _check_form(raw, shape)
    _check_labels(raw.y, classes)
    _check_names(raw.classes, classes)
    x = _scaled(raw.x, raw.extent, bounds)
    _check_values(x, bounds)
    return Records(x, raw.y.astype(np.int64), None if raw.persons is None else _persons(raw.persons, len(x)))


def content_digest(records: Records) -> str:
    """SHA-256 of the records' content: shape, x as little-endian float32, y as little-endian int64.

    Where persons are told, `persons` and they as little-endian int64 follow.

    The header is `midguard-records-v1 (n, *shape)` and a line end, in ASCII; negative zero counts as zero.
    """
    digest = hashlib.sha256(f"midguard-records-v1 {tuple(map(int, records.x.shape))}\n".encode())
    for chunk in _normalised(records.x):
        digest.update(chunk.data)
    digest.update(np.ascontiguousarray(records.y, dtype="<i8").data)
    if records.persons is not None:
        digest.update(b"persons")
        digest.update(np.ascontiguousarray(records.persons, dtype="<i8").data)
    return digest.hexdigest()


def _persons(persons: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Persons as numbers; a name becomes one that is the same in every file (8 bytes of its SHA-256)."""
    if persons.shape != (n,):
        hint = "one number or name a record, the same for all records of one person"
        raise InputError.of(f"person has shape {list(persons.shape)}, expected [{n}]", hint)
    if persons.dtype.kind in "US":
        names, where = np.unique(persons.astype(np.str_), return_inverse=True)
        hashed = [hashlib.sha256(str(name).encode()).digest()[:8] for name in names]
        return np.array([int.from_bytes(part, "little", signed=True) for part in hashed], dtype=np.int64)[where]
    if persons.dtype.kind not in "iu" or (n and int(persons.max()) > np.iinfo(np.int64).max):
        hint = "persons.astype('int64'), or their names"
        raise InputError.of(f"person holds {persons.dtype}, expected whole numbers or names", hint)
    return persons.astype(np.int64)


def record_digests(x: NDArray[np.float32]) -> list[bytes]:
    """SHA-256 of each record's values, without its class. Args: x `(n, *shape)`."""
    return [hashlib.sha256(row.data).digest() for chunk in _normalised(x) for row in chunk]


def _normalised(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Blocks of `(k, d)` little-endian float32 in C order, negative zeros made positive."""
    width = prod(x.shape[1:])
    for start in range(0, len(x), _CHUNK):
        block = x[start : start + _CHUNK].reshape(-1, width) + np.float32(0)
        yield np.ascontiguousarray(block, dtype="<f4")


def _check_form(raw: RawRecords, shape: tuple[int, ...]) -> None:
    """Shapes and kinds of both arrays."""
    x, y = raw.x, raw.y
    if x.dtype.kind not in "fiub":
        raise InputError.of(f"x holds {x.dtype}, expected real numbers", "save it as float32 or, for images, uint8")
    if y.ndim != 1:
        hint = (
            "numbers, not one-hot rows: y.argmax(axis=1)" if y.ndim == 2 and y.shape[1] > 1 else "flatten it: y.ravel()"
        )
        raise InputError.of(f"y has shape {list(y.shape)}, expected one class number a record", hint)
    if x.shape[1:] != shape:
        raise InputError.of(
            f"the records have shape {list(x.shape[1:])}, the task expects {list(shape)}", _reshape(x, shape)
        )
    if len(x) != len(y):
        raise InputError.of(f"{len(x)} records in x but {len(y)} classes in y", "each record needs its class")
    if len(x) == 0:
        raise InputError.of("there are no records", "what was not measured is never a pass")


def _reshape(x: NDArray[Any], shape: tuple[int, ...]) -> str:
    """What to do about records of another shape."""
    if x.ndim == 4 and (x.shape[3], *x.shape[1:3]) == shape:
        return "channels come first: x.transpose(0, 3, 1, 2)"
    if prod(x.shape[1:]) == prod(shape):
        return f"x.reshape(-1, {', '.join(map(str, shape))})"
    return "correct spec.task.input, or give the records that the model was made for"


def _check_labels(y: NDArray[Any], classes: int) -> None:
    """Refuse what is no class number."""
    if y.dtype.kind not in "fiub":
        raise InputError.of(f"y holds {y.dtype}, expected whole numbers from 0 to {classes - 1}", "number the classes")
    wrong = np.flatnonzero(~((y >= 0) & (y < classes) & (y == np.trunc(y))))
    if len(wrong):
        first = wrong[0]
        message = f"{len(wrong)} labels are not whole numbers from 0 to {classes - 1}"
        hint = "number the classes from 0, or correct spec.task.classes"
        raise InputError.of(f"{message}, the first is {y[first]} at record {first}", hint)


def _check_names(names: tuple[str, ...] | None, classes: int) -> None:
    """Refuse class names that are not as many as the classes: their numbers would be other ones."""
    if names is not None and len(names) != classes:
        message = (
            f"{len(names)} classes ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}), the task has {classes}"
        )
        raise InputError.of(message, "keep every class, empty ones too, so that each keeps its number")


def _scaled(x: NDArray[Any], extent: Extent | None, bounds: tuple[float, float]) -> NDArray[np.float32]:
    """The values in the task's range; arrays that are in it already are not copied."""
    if extent is None:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
            return x.astype(np.float32, copy=False)
    if x.dtype == np.uint8 and x.size and int(x.max()) <= 1:
        raise InputError.of(
            "images of bytes are read as 0 to 255, these hold only 0 and 1",
            "save pixels as 0 to 255, or as float32 in the task's range",
        )
    low, high = bounds
    width = np.asarray(extent.high, dtype=np.float64) - extent.low
    factor = np.divide(high - low, width, out=np.zeros_like(width), where=width > 0)
    scaled = x * np.float32(factor) if factor.ndim == 0 else (x - extent.low) * factor
    return np.clip(scaled + np.float32(low), np.float32(low), np.float32(high)).astype(np.float32, copy=False)


def _check_values(x: NDArray[np.float32], bounds: tuple[float, float]) -> None:
    """Refuse NaN, infinities and values outside the range, with the first of them."""
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    # NaN makes both extremes NaN, so that neither comparison holds.
    if x.size and x.min() >= low and x.max() <= high:
        return
    wrong = ~((x >= low) & (x <= high))
    place = np.unravel_index(int(wrong.argmax()), x.shape)
    record, entry = int(place[0]), [int(i) for i in place[1:]]
    bad, not_numbers = int(wrong.sum()), int((~np.isfinite(x)).sum())
    what = (
        f"{not_numbers} values are NaN or infinite"
        if not_numbers
        else f"{bad} values are outside {[float(low), float(high)]}"
    )
    hint = (
        "fill or drop them, as was done for training"
        if not_numbers
        else "scale the records, or correct spec.task.range"
    )
    raise InputError.of(f"{what}, the first is {x[place]:g} at record {record}, entry {entry}", hint)
