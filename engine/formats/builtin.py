"""Data sets that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ._protocol import RawRecords


@dataclass(frozen=True, slots=True)
class Builtin:
    """Classification data set that scikit-learn ships, scaled to the task's range: `builtin:digits`."""

    holds: ClassVar[str] = "data"
    suffixes: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str] = "builtin"
    parameters: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records of the data set that `path` names; nothing is downloaded.

        Raises:
            InputError: There is no such data set, or its records have another shape.
        """
        from ._sklearn import read_shipped

        return read_shipped(path.name, shape)
