"""Opening a store, without importing what it needs before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._store import Budget


def open_budget(place: str) -> Budget:
    """A store that is there already; none is ever made by opening it, or a misspelt place would be an empty budget.

    Args:
        place: A SQLAlchemy URL, or the path of a SQLite file.

    Raises:
        InputError: There is none, or the database cannot be reached. No password is in the message.
    """
    from ._store import Budget, connected

    budget = Budget(connected(place))
    budget.refuse_absent()
    return budget


def new_budget(place: str) -> Budget:
    """A new, empty store.

    Args:
        place: A SQLAlchemy URL, or the path of a SQLite file.

    Raises:
        InputError: There is one already, or the database cannot be reached. No password is in the message.
    """
    from ._store import Budget, connected

    budget = Budget(connected(place, new=True))
    budget.create()
    return budget
