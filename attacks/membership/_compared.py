"""What every attack that holds the subject against reference models declares and checks alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access


@dataclass(frozen=True, slots=True)
class Compared:
    """Parameters and threat model of such an attack.

    Attributes:
        references: How many of the reference models are compared with at most.
        views: How many views of each record are asked about.
        label_views: How many where the release shows nothing but the label, if that is more.
    """

    references: int = 16
    views: int = 1
    label_views: int = 9

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the record", "its recorded label", "how the model was trained"),
        goal=Goal.MEMBERSHIP,
        references=True,
    )

    def __post_init__(self) -> None:
        for name in ("references", "views", "label_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each view of each candidate; a release of labels alone takes `label_views`."""
        return self.views * targets
