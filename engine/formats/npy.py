"""Pairs of NumPy files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ._protocol import RawRecords


@dataclass(frozen=True, slots=True)
class Npy:
    """Two NumPy files (.npy), records and classes, mapped into memory: `{x: members_x.npy, y: members_y.npy}`.

    Attributes:
        y: The file with the classes.
    """

    y: Path

    holds: ClassVar[str] = "data"
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    key: ClassVar[str] = "x"
    parameters: ClassVar[Mapping[str, Mapping[str, object]]] = {"y": {"type": "string", "format": "path"}}

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records.

        Raises:
            InputError: One of the two is not a NumPy file, or holds objects.
        """
        from ._arrays import from_arrays, load_array

        return from_arrays(load_array(path), load_array(self.y))
