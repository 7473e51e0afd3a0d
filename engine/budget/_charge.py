"""A training that is charged to a budget: reserved for before its first step, settled after its last."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, MidguardError
from ._chain import Kind

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ._chain import Entry
    from ._store import Budget

#: In the folder of an unfinished training: which entry of the store was reserved for it.
RESERVATION = "reservation.json"


@dataclass(frozen=True, slots=True)
class Charge:
    """What is charged to a budget for one training, however often it is interrupted.

    Attributes:
        budget: The store.
        dataset: Name under which data sets that share records count together; empty for none.
        folder: Of the unfinished training, where its reservation is remembered.
    """

    budget: Budget
    dataset: str
    folder: Path

    def reserve(self, planned: Ledger) -> None:
        """Reserve for all that the training may do; what was reserved for it already is reserved once.

        A training that was killed never settles: its reservation counts in full until the same training goes on.

        Args:
            planned: All of it, what earlier attempts did included.

        Raises:
            InputError: The store is broken or cannot be written: nothing is trained.
        """
        held = self._held()
        if held is not None and held.dataset == self.dataset and held.released.events == planned.events:
            return
        entry = self.budget.reserve(planned, self.dataset, 0 if held is None else held.sequence)
        self._remember(entry)

    def settle(self, ledger: Ledger) -> None:
        """Put what happened in the reservation's place, before the model is released.

        Raises:
            MidguardError: Nothing was reserved for it.
            InputError: The store is broken or cannot be written: nothing is released.
        """
        held = self._held()
        if held is None:
            raise MidguardError("budget: the training has no open reservation in this store: nothing is released")
        self.budget.settle(held.sequence, ledger)

    def _held(self) -> Entry | None:
        """The open reservation of this training in this store; `None` where it has none."""
        path = self.folder / RESERVATION
        if not path.exists():
            return None
        try:
            known = json.loads(path.read_text(encoding="utf-8"))["hash"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "take the file away: the training is reserved for anew, and what was reserved stays reserved"
            raise InputError.of(f"{path}: no reservation that can be read ({error})", hint) from error
        entries = self.budget.chain().entries
        settled = {entry.settles for entry in entries}
        found = (e for e in entries if e.hash == known and e.kind is Kind.RESERVED and e.sequence not in settled)
        return next(found, None)

    def _remember(self, entry: Entry) -> None:
        """Write down which entry it is; lost in between, it stays reserved and another is made: never less."""
        path = self.folder / RESERVATION
        fresh = path.with_name(f"{path.name}.part")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"sequence": entry.sequence, "hash": entry.hash}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
