"""Canaries among the records."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import Found, Observer
from ...engine.ledger import Planted
from ...engine.target import Records

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ...engine.audit import Claimed, Planned, Training

_FEWEST, _MOST = 500, 2000
#: One canary for so many records, between those ends; and never more than one for every two.
_EACH, _DENSEST = 20, 2


def canaries_for(records: int) -> int:
    """How many canaries a training on so many records gets: a twentieth, 500 to 2,000, at most half as many."""
    return min(_MOST, max(_FEWEST, records // _EACH), records // _DENSEST)


@dataclass(frozen=True, slots=True)
class InputCanaries:
    """Whether records unlike all others, with random labels, are told apart better than the ledger allows.

    Their values are drawn from the two ends of the range. Each is trained on or not by a fair coin, and scored by how
    far its loss fell from the untrained to the released model.
    """

    source: ClassVar[str] = (
        "Steinke et al. 2023, arXiv 2305.08846; Nasr et al. 2023, arXiv 2302.07956; Mahloujifar et al. 2024, "
        "arXiv 2410.22235"
    )

    def plan(self, planned: Planned) -> Observer:
        """Draw the canaries and toss their coins."""
        import numpy as np

        count, chance = canaries_for(planned.records), planned.chance()
        x = chance.choice(np.array(planned.bounds, dtype=np.float32), size=(count, *planned.shape))
        y = chance.integers(planned.classes, size=count)
        return _Among(Records(x.astype(np.float32), y.astype(np.int64)), planned.coins(count))


class _Among(Observer):
    """Keeps the model as it was before training."""

    def __init__(self, canaries: Records, inside: NDArray[bool_]) -> None:
        self._canaries, self._inside = canaries, inside
        self._untrained: torch.nn.Module | None = None
        self.planted = Planted(records=len(inside), records_in=int(inside.sum()))

    def canaries(self) -> Records:
        """Those whose coin said so."""
        import numpy as np

        return self._canaries.take(np.flatnonzero(self._inside))

    def begins(self, training: Training) -> None:
        """Keep the untrained model."""
        self._untrained = training.untrained

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """The claim test on how far each canary's loss fell."""
        from ._canaries import judged

        if self._untrained is None:
            raise ValueError("the untrained model was not kept")
        fell = _losses(self._untrained, self._canaries) - _losses(module, self._canaries)
        return judged(fell, self._inside, claimed)


def _losses(module: torch.nn.Module, records: Records) -> NDArray[float64]:
    """`(n,)` cross-entropy of each record."""
    import numpy as np
    import torch

    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(records.x)).double()
        found = torch.nn.functional.cross_entropy(logits, torch.from_numpy(records.y), reduction="none")
    return np.asarray(found.numpy(), dtype=np.float64)
