"""The demo: one policy, a careless model and a careful one, on handwritten digits that scikit-learn ships."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .verdict import Status, Verdict

_FILES = Path(__file__).resolve().parents[1] / "policies" / "demo"


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the demo.

    Attributes:
        name: Its folder.
        expects: Whether a verdict is the one that this model must get.
    """

    name: str
    expects: Callable[[Verdict], bool]


def fails_both(verdict: Verdict) -> bool:
    """Whether membership and inversion are both shown to be violated."""
    failed = {f.requirement.measure_name for f in verdict.findings if f.status is Status.FAIL}
    return {"membership.advantage", "inversion.distance"} <= failed


def passes_all(verdict: Verdict) -> bool:
    """Whether every requirement is shown to hold."""
    return verdict.status is Status.PASS


CASES = (Case("careless", fails_both), Case("careful", passes_all))


def lay_out(out: Path, seed: int | None) -> None:
    """Write the policy and the recipes; with a seed, every recipe's seeds are derived from it."""
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_FILES / "policy.yaml", out / "policy.yaml")
    for case in CASES:
        text = (_FILES / f"{case.name}.yaml").read_text(encoding="utf-8")
        recipe_of(out, case).write_text(text if seed is None else _reseeded(text, seed), encoding="utf-8")


def _reseeded(text: str, seed: int) -> str:
    return re.sub(r"(\bseed: )\d+", lambda found: f"{found[1]}{seed}", text)


def recipe_of(out: Path, case: Case) -> Path:
    """The recipe of a case."""
    return out / "recipes" / f"{case.name}.yaml"


def model_of(out: Path, case: Case) -> Path:
    """The model that training leaves."""
    return out / case.name / "model.pt"
