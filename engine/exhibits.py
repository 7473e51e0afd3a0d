"""What the report shows of inversion attacks: each beside its controls and guesses, and a gallery.

Medians and shares over all targets. Pictures of records leave the store only where they are asked for.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import store as storage
from .judges import baselines
from .measures.inversion.distance import Distance
from .observation import Goal, Reconstruction
from .run import work_key

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray

    from .plan import ControlRun, Outcome
    from .run import Bench
    from .target import Records

Json = dict[str, object]

#: So many tiles an attack has at most, the closest reconstructions first.
_TILES = 20
#: The worst of the targets, and how many of them are named.
_WORST, _NAMED = 0.05, 20
#: A picture is enlarged, pixel by pixel, until its longer side is about this.
_SIDE = 112


def inversion_rows(outcome: Outcome, metric: str) -> Json | None:
    """An inversion attack beside its controls, the guesses without the model and the yardsticks; `None` for others.

    Args:
        outcome: What became of the attack.
        metric: The distance that the policy asks about first.
    """
    goal = outcome.job.attack.threat.goal
    if goal not in {Goal.CLASS, Goal.RECORD, Goal.UPDATE}:
        return None
    seen = outcome.observation if isinstance(outcome.observation, Reconstruction) else None
    rows = [_row("this model", "attack", seen, outcome.reason)]
    rows += [_control("leaky twin", outcome.positive), _control("null", outcome.negative)]
    rows += [_control(name, run) for name, run in outcome.rows.items()]
    if seen is not None:
        rows += _guesses(seen) + _yardsticks(seen)
    return {"metric": metric, "goal": str(goal), "rows": rows, "evaluators": [] if seen is None else _evaluators(seen)}


def _control(name: str, run: ControlRun) -> Json:
    seen = run.observation if isinstance(run.observation, Reconstruction) else None
    return _row(name, "control", seen, run.reason)


def _row(name: str, kind: str, seen: Reconstruction | None, reason: str) -> Json:
    if seen is None:
        nothing = dict.fromkeys(("mse", "ssim", "feature", "identified", "rank1", "gap"))
        return {"name": name, "kind": kind, **nothing, "targets": 0, "reason": reason}
    return {
        "name": name,
        "kind": kind,
        "mse": _median(seen.mse),
        "ssim": _median(seen.ssim),
        "feature": _median(seen.feature),
        "identified": _majority(seen.votes),
        "rank1": None if seen.rank is None else _number(float((seen.rank == 1).mean())),
        "gap": _median(seen.gap),
        "targets": len(seen.targets),
        "reason": reason,
    }


def _guesses(seen: Reconstruction) -> list[Json]:
    """What could be said without the model."""
    feature = seen.baseline_feature
    return [
        _row(name, "no model", None, "")
        | {
            "mse": _median(seen.baseline_mse[i]),
            "ssim": _median(seen.baseline_ssim[i]),
            "feature": None if feature is None else _median(feature[i]),
            "targets": len(seen.targets),
        }
        for i, name in enumerate(seen.baselines)
    ]


def _yardsticks(seen: Reconstruction) -> list[Json]:
    """What only the truth could tell."""
    if seen.yardstick_mse is None:
        return []
    votes = seen.yardstick_votes
    return [
        _row(name, "oracle", None, "")
        | {
            "mse": _median(seen.yardstick_mse[i]),
            "identified": None if votes is None else _majority(votes[i]),
            "targets": len(seen.targets),
        }
        for i, name in enumerate(seen.yardsticks)
    ]


def _evaluators(seen: Reconstruction) -> list[Json]:
    false = seen.false_votes.mean(axis=0) if len(seen.false_votes) else np.full(len(seen.evaluators), np.nan)
    return [
        {"name": name, "accuracy": _number(float(accuracy)), "falsePositives": _number(float(share))}
        for name, accuracy, share in zip(seen.evaluators, seen.evaluator_accuracy, false, strict=True)
    ]


def _majority(votes: NDArray[np.bool_]) -> float | None:
    """The share of targets that most evaluators recognise; `None` where nobody was asked."""
    if not votes.size:
        return None
    return _number(float((votes.sum(axis=1) > votes.shape[1] / 2).mean()))


def _median(values: NDArray[float64] | None) -> float | None:
    if values is None or not len(values) or np.isnan(values).any():
        return None
    return _number(float(np.median(values)))


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


# --- the worst, and the floor ----------------------------------------------------------------------------------------


def worst_targets(seen: Reconstruction, measure: Distance) -> list[Json]:
    """The twentieth of the targets that lies closest; records by their rank, never by a number that leads to them."""
    attack, guess = measure.attack_distances(seen), measure.best_guess(seen).distances
    count = min(_NAMED, max(1, math.ceil(_WORST * len(attack))))
    order = np.argsort(attack, kind="stable")[:count]
    return [
        {
            "target": int(seen.targets[i]) if seen.goal is Goal.CLASS else rank,
            "distance": _number(float(attack[i])),
            "baseline": _number(float(guess[i])),
        }
        for rank, i in enumerate(order.tolist(), start=1)
    ]


def floor_of(outcome: Outcome, measure: Distance) -> float | None:
    """The distance, at the measure's quantile, where the label alone is exposed; `None` where that was not run."""
    from .inverting import FLOOR

    run = outcome.rows.get(FLOOR)
    if run is None or not isinstance(run.observation, Reconstruction):
        return None
    distances = measure.attack_distances(run.observation)
    return None if np.isnan(distances).any() else _number(float(np.quantile(distances, measure.quantile)))


# --- the gallery -----------------------------------------------------------------------------------------------------


def gallery(bench: Bench, outcomes: Mapping[str, Outcome], measure: Distance, shown: bool) -> Json:
    """The closest reconstructions of every inversion attack; pictures only where they are to be shown.

    Args:
        bench: The subject, whose store holds what was drawn.
        outcomes: What became of every job.
        measure: By what is called close.
        shown: Whether pictures of records may enter the evidence.
    """
    attacks = [
        _wall(bench, outcome, outcome.observation, measure, shown)
        for outcome in outcomes.values()
        if isinstance(outcome.observation, Reconstruction)
    ]
    return {"shown": shown, "attacks": attacks}


def _wall(bench: Bench, outcome: Outcome, seen: Reconstruction, measure: Distance, shown: bool) -> Json:
    attack, guess = measure.attack_distances(seen), measure.best_guess(seen)
    order = np.argsort(attack, kind="stable")[:_TILES]
    drawn = _Drawn.of(bench, outcome, seen, guess.name) if shown else None
    tiles: list[Json] = []
    for rank, i in enumerate(order.tolist(), start=1):
        votes = seen.votes[i]
        tiles.append(
            {
                "target": int(seen.targets[i]) if seen.goal is Goal.CLASS else rank,
                "distance": _number(float(attack[i])),
                "baseline": _number(float(guess.distances[i])),
                "identified": bool(votes.sum() > len(votes) / 2) if len(votes) else None,
                "pictures": None if drawn is None else drawn.pictures(i),
            }
        )
    return {"attack": outcome.job.name, "goal": str(seen.goal), "tiles": tiles}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn of one attack, `(n, *shape)` each: the truth, the reconstruction and the best guess."""

    truth: NDArray[float32]
    images: NDArray[float32]
    guess: NDArray[float32]
    bounds: tuple[float, float]

    @classmethod
    def of(cls, bench: Bench, outcome: Outcome, seen: Reconstruction, guess: str) -> _Drawn | None:
        """From the store; `None` where it does not hold the images, or records are no images."""
        from .inverting import truth_of

        kept = bench.store.get(f"{work_key(bench, outcome.job, 'subject')}.images")
        owned, shape = bench.records.auxiliary, bench.subject.task.shape
        if kept is None or owned is None or len(shape) != 3 or shape[0] not in {1, 3}:
            return None
        with storage.unpacked(kept) as (_, arrays):
            images = np.asarray(arrays["images"])
        truth: Records = truth_of(bench, outcome.job, seen, images)
        guesses = baselines(owned, seen.labels, outcome.job.seed)
        return cls(truth.x, _in_order(seen, images, truth, bench, outcome), guesses[guess], bench.subject.task.bounds)

    def pictures(self, i: int) -> Json:
        """The three pictures of a target, as PNG in base64."""
        parts = {"target": self.truth[i], "reconstruction": self.images[i], "baseline": self.guess[i]}
        return {name: _png(image, self.bounds) for name, image in parts.items()}


def _in_order(
    seen: Reconstruction, images: NDArray[float32], truth: Records, bench: Bench, outcome: Outcome
) -> NDArray[float32]:
    """The reconstructions in the order in which they were judged: matched within batches and updates."""
    from .inverting import batch_of
    from .judges import matched

    if seen.goal is Goal.CLASS:
        return images
    return matched(images, truth.x, len(truth) if seen.goal is Goal.UPDATE else batch_of(bench, outcome.job))


def _png(image: NDArray[float32], bounds: tuple[float, float]) -> str:
    """A picture without transparency, grey or in colours, enlarged pixel by pixel. Args: image `(c, h, w)`."""
    from PIL import Image

    low, high = bounds
    shades = np.clip(np.round((image - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    times = max(1, round(_SIDE / max(image.shape[1:])))
    grid = np.kron(shades, np.ones((1, times, times), dtype=np.uint8))
    picture = Image.fromarray(grid[0] if len(grid) == 1 else np.moveaxis(grid, 0, 2))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
