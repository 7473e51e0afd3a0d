"""What every inversion measure checks before it trusts an outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...observation import Reconstruction

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...ledger import Account
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Guess:
    """A reconstruction without the model.

    Attributes:
        name: What it is.
        distances: `(n,)`, how far it is from each target.
    """

    name: str
    distances: NDArray[float64]


def reconstruction(observation: Observation | Account) -> Reconstruction:
    """The observation, if it is one of reconstruction.

    Raises:
        TypeError: It is of another kind.
    """
    if not isinstance(observation, Reconstruction):
        raise TypeError(f"expected a reconstruction, found {type(observation).__name__}")
    return observation
