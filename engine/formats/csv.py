"""Tables as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ._columns import PARAMETERS
from ._protocol import RawRecords


@dataclass(frozen=True, slots=True)
class Csv:
    """Comma-separated values, one record a line under a header: `{file: members.csv, label: income}`.

    Attributes:
        label: The column with the class.
        columns: The columns that the model reads, in that order; left out: all but the label and the person, in the
            file's order.
        categories: The values of each categorical column, in the order of their one-hot places.
        person: The column that tells whose record it is, where somebody may have several; never read by the model.
    """

    label: str
    columns: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    person: str | None = None

    holds: ClassVar[str] = "data"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    key: ClassVar[str] = "file"
    parameters: ClassVar[Mapping[str, Mapping[str, object]]] = PARAMETERS

    def read(self, path: Path, shape: tuple[int, ...]) -> RawRecords:
        """The records.

        Raises:
            InputError: Not such a table, an unknown column or category, a value that is missing or no number.
        """
        from ._table import from_table, read_csv

        return from_table(read_csv(path), self.label, self.columns, self.categories, path, shape, self.person)
