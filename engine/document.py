"""YAML documents whose every value knows where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import Location, Problem

#: A place inside a document: keys and positions from the root.
PathTo = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A loaded YAML file: plain values (dict, list, str, int, float, bool, None) and their places.

    Attributes:
        file: The file as the user named it.
        data: The file's bytes.
        root: The plain value.
        places: Where each value starts, by its path; keys under `(*path, key)` give the value's place.
        keys: Where each mapping key stands, by the path of its value.
    """

    file: Path
    data: bytes
    root: object
    places: Mapping[PathTo, Location]
    keys: Mapping[PathTo, Location]

    @property
    def sha256(self) -> str:
        """Digest of the file's bytes, lower-case hex."""
        raise NotImplementedError

    def place(self, path: PathTo) -> Location:
        """Where the value stands, or the nearest mapping around it if it is missing."""
        raise NotImplementedError


def read(path: Path) -> Document:
    """Read one YAML document.

    Raises:
        InputError: Missing, empty, too large, not UTF-8, not YAML, tabs, duplicate keys, aliases that explode,
            NaN or infinity, with every place that is wrong.
    """
    raise NotImplementedError


def violations(document: Document, schema: Mapping[str, object], at: PathTo = ()) -> list[Problem]:
    """Everything in (a part of) the document that a JSON Schema (Draft 2020-12) forbids, in the order of the file."""
    raise NotImplementedError
