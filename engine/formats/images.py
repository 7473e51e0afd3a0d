"""Folders of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ._protocol import RawRecords


@dataclass(frozen=True, slots=True)
class Images:
    """Folder of images, one folder a class in the order of their names: `{folder: members}`."""

    holds: ClassVar[str] = "data"
    suffixes: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str] = "folder"
    parameters: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records.

        Raises:
            InputError: Not such a folder, a file that is no image, or one of another size.
        """
        from ._pictures import read_folder

        return read_folder(path, shape)
