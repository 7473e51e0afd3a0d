"""What a format is: one file each, found by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@runtime_checkable
class ModelFormat(Protocol):
    """A file format of weights.

    Attributes:
        holds: `model`.
        suffixes: Endings of file names, with their dot.
    """

    holds: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def read(self, content: bytes, path: Path) -> Mapping[str, torch.Tensor]:
        """The tensors by name. No code in the file is run.

        Args:
            content: The file's bytes, those that were hashed.
            path: Where they came from, for messages.

        Raises:
            InputError: It is not such a file, or holds more than plain tensors.
        """
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """The values that stand for the two ends of the task's range, each for every entry or for each column.

    Attributes:
        low: What becomes the smallest value that the task allows.
        high: What becomes the largest.
    """

    low: NDArray[Any] | float
    high: NDArray[Any] | float


@dataclass(frozen=True, slots=True)
class RawRecords:
    """Records as a file holds them, nothing checked yet.

    Attributes:
        x: `(n, ...)` of any dtype.
        y: `(n,)` of any dtype.
        extent: What is scaled to the task's range; `None` where the values are already in it.
        classes: Names of the classes in the order of their numbers, where the file tells them.
        persons: `(n,)` numbers or names, whose record it is; `None` where the file does not tell.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    extent: Extent | None = None
    classes: tuple[str, ...] | None = None
    persons: NDArray[Any] | None = None


@runtime_checkable
class DataFormat(Protocol):
    """A file format of records; a dataclass whose fields are what a user may write beside the file.

    Attributes:
        holds: `data`.
        suffixes: Endings of file names, with their dot; empty where `key` alone tells the format.
        key: The field of the document that names the file, folder or data set.
        parameters: JSON Schema of each field; `format: path` for a file, relative to the document.
    """

    holds: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    key: ClassVar[str]
    parameters: ClassVar[Mapping[str, Mapping[str, object]]]

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records.

        Args:
            path: The file or folder (for `builtin` the data set's name).
            shape: Shape of one record; flat formats are folded into it.

        Raises:
            InputError: It is not such a file.
        """
        ...
