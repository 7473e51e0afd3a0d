"""NumPy archives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ._protocol import RawRecords


@dataclass(frozen=True, slots=True)
class Npz:
    """NumPy archive (.npz) with the records in `x`, their classes in `y` and, if told, whose they are in `person`."""

    holds: ClassVar[str] = "data"
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)
    key: ClassVar[str] = "file"
    parameters: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records.

        Raises:
            InputError: Not an archive, arrays of objects, or no `x` and `y` in it.
        """
        from ._arrays import from_arrays, load_archive

        arrays = load_archive(path)
        return from_arrays(arrays.x, arrays.y, arrays.persons)
