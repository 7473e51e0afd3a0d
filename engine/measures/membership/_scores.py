"""What every membership measure checks before it trusts scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Membership

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation


def membership(observation: Observation | Account) -> Membership:
    """The observation, if it is one of membership.

    Raises:
        TypeError: It is of another kind.
    """
    if not isinstance(observation, Membership):
        raise TypeError(f"expected a membership observation, found {type(observation).__name__}")
    return observation


def unusable(observation: Membership, alpha: float) -> Measurement | None:
    """A measurement that says nothing, where the scores say nothing: a NaN, or fewer than two persons on a side.

    A NaN is not dropped: the records on which a model breaks down need not be like the others.
    """
    import numpy as np

    members, persons = observation.members, observation.persons
    whose = np.arange(len(members)) if persons is None else persons
    fewest = min(len(np.unique(whose[side])) for side in (members, ~members))
    if fewest >= 2 and not np.isnan(observation.scores).any():
        return None
    return undetermined(1 - alpha, len(members), Basis.ATTACKED)


def persons_of(observation: Membership) -> tuple[Quantity, ...]:
    """How many persons there are, where somebody has several records."""
    from ...statistics import several

    numbered = several(observation.persons)
    return () if numbered is None else (Quantity("persons", int(numbered.max()) + 1),)
