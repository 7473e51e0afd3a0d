"""What every inversion measure checks before it trusts an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...observation import Reconstruction

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation


def reconstruction(observation: Observation | Account) -> Reconstruction:
    """The observation, if it is one of reconstruction.

    Raises:
        TypeError: It is of another kind.
    """
    if not isinstance(observation, Reconstruction):
        raise TypeError(f"expected a reconstruction, found {type(observation).__name__}")
    return observation
