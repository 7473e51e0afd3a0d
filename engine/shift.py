"""Whether members and nonmembers differ by themselves: a classifier that sees the records and never the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .target import Records


@dataclass(frozen=True, slots=True)
class Feature:
    """One value of a record by which members can be told.

    Attributes:
        name: `class`, `column 7`, or `pixel (channel, row, column)`, all counted from 0.
        p: Holm-adjusted p-value of its own test.
    """

    name: str
    p: float


@dataclass(frozen=True, slots=True)
class Shift:
    """What can be told of membership from the records alone.

    Attributes:
        found: Whether members and nonmembers differ by themselves.
        p: Of the null that they do not, over everything that was tried; corrected.
        alpha: How often it may be found where there is none.
        auc: How well the classifier tells them, on records that it was not fitted on.
        records: How many records were looked at.
        features: What tells them, the clearest first; empty where nothing on its own does.
    """

    found: bool
    p: float
    alpha: float
    auc: float
    records: int
    features: tuple[Feature, ...]


def shift_test(members: Records, nonmembers: Records, seed: int, alpha: float = 0.01) -> Shift:
    """Hold the records of both kinds against each other."""
    raise NotImplementedError
