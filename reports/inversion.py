"""What the report says of inversion attacks: which goal decided what, each attack beside its controls, the gallery.

Goals are kept apart: what a class looks like, what one record was and what an update taught never share a table of
distances. Evidence of an earlier midguard holds neither rows nor a gallery; then the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pictures import Picture, picture
from .wording import target_words

if TYPE_CHECKING:
    from .phrases import Evidence

KIND = "inversion."
#: So many tiles of an attack are drawn; the others are counted.
MAX_TILES = 20
#: The three pictures of a tile, in the order in which they are drawn, and what they are called.
_PARTS = (("target", "target"), ("reconstruction", "reconstruction"), ("baseline", "guess without the model"))
_GROUPS = {
    "attack": "The attack",
    "control": "The same attack where the answer is known",
    "no model": "Guesses without the model",
    "oracle": "What only the truth could tell",
}
_GOALS = {
    "class-representative": "what the records of a class look like; a target is a class, and its distance is that to "
    "the nearest training record of the class",
    "record-reconstruction": "what one record was; a target is a training record, and its distance is that to this "
    "very record",
    "update-reconstruction": "what the model learnt between two snapshots; a target is a record of the update, "
    "matched to the reconstruction that lies nearest",
}
_MEANS = {
    "this model": "What requirements are judged by",
    "leaky twin": "Must be found",
    "null": "Must fall to the guesses",
    "untrained": "Must fall to the guesses",
    "without the class": "Must fall to the guesses",
    "nonmembers": "What is found of them is no memory of the training",
    "oracle": "Stands in for a perfect reconstruction, to show that the measure can succeed",
    "class mean of the members": "Stands in for a perfect reconstruction, to show that the measure can succeed",
    "label-only floor": "The label alone: no output defence can beat it",
    "nearest auxiliary record": "Whoever could pick it would need the truth",
    "nearest other member": "Whoever could pick it would need the truth",
}
#: The same where single records are attacked: answers of random weights tell of a record, too, and nobody's training.
_OF_RECORDS = {"untrained": "What any network's answers give away, before it learns anything"}


@dataclass(frozen=True, slots=True)
class Row:
    """The attack, a control of it or a guess without the model: medians and shares over its targets.

    Attributes:
        name: What it is.
        means: What it is there for; empty where its name says it.
        mse: Median mean squared error; `None` where nothing was measured, as for all that follow.
        ssim: Median structural similarity.
        feature: Median distance between what independent evaluators see.
        identified: Share of targets that a majority of the evaluators recognises.
        rank1: Share of targets that lie nearer to their reconstruction than every other does.
        gap: Median of how much further the nearest other target is.
        targets: Over how many targets.
        reason: Why there are no numbers, or what it was.
    """

    name: str
    means: str
    mse: float | None
    ssim: float | None
    feature: float | None
    identified: float | None
    rank1: float | None
    gap: float | None
    targets: int
    reason: str

    @property
    def note(self) -> str:
        """What it is there for and what it was, or why it has no numbers; empty where its name says it all."""
        why = self.reason[:1].upper() + self.reason[1:]
        return why if self.missing else ". ".join(part for part in (self.means, why) if part)

    @property
    def missing(self) -> bool:
        """Whether it has no number at all."""
        return all(v is None for v in (self.mse, self.ssim, self.feature, self.identified, self.rank1, self.gap))


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one kind."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One that recognises identities: how often it is right about real records, and about what cannot carry them."""

    name: str
    accuracy: float | None
    false_positives: float | None


@dataclass(frozen=True, slots=True)
class Tile:
    """One target: how close the attack came, and its pictures.

    Attributes:
        target: The class, or the record's rank; in words.
        distance: The attack's distance.
        baseline: That of the best guess without the model.
        identified: Whether the majority of the evaluators recognises it; `None` where identity is not at stake.
        pictures: Target, reconstruction and guess; empty where they are not shown.
    """

    target: str
    distance: float | None
    baseline: float | None
    identified: bool | None
    pictures: tuple[Picture, ...]

    @property
    def nearer(self) -> float | None:
        """The attack's distance over the guess's; `None` where there is none."""
        return self.distance / self.baseline if self.distance is not None and self.baseline else None


@dataclass(frozen=True, slots=True)
class Gallery:
    """The tiles of one attack, the closest first, and how many are left out."""

    tiles: tuple[Tile, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Trial:
    """An inversion attack beside everything that it is held against.

    Attributes:
        attack: Its entry in the evidence.
        goal: What it is after.
        after: The same in words.
        metric: How the policy measures its distance; empty where that is not on record.
        groups: Its rows by kind; empty where none are on record.
        evaluators: Who judged identity.
        gallery: Its tiles; `None` where none are on record.
    """

    attack: Evidence
    goal: str
    after: str
    metric: str
    groups: tuple[Group, ...]
    evaluators: tuple[Evaluator, ...]
    gallery: Gallery | None


@dataclass(frozen=True, slots=True)
class Decision:
    """An inversion requirement, and the goal of the attack that decided it; empty where none did."""

    finding: Evidence
    goal: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """Everything that the report says of inversion.

    Attributes:
        decisions: The policy's inversion requirements.
        trials: The inversion attacks of the run, by goal.
        shown: Whether the evidence was made to show reconstructions.
    """

    decisions: tuple[Decision, ...]
    trials: tuple[Trial, ...]
    shown: bool

    @property
    def personal(self) -> bool:
        """Whether a picture is drawn."""
        return any(tile.pictures for trial in self.trials if trial.gallery for tile in trial.gallery.tiles)


def chapter(evidence: Evidence) -> Chapter:
    """What the report says of inversion, from the evidence.

    Raises:
        ValueError: A picture is none, or stands in evidence that says that it holds none.
        KeyError: Something is missing.
    """
    gallery = evidence["figures"].get("gallery") or {"shown": False, "attacks": []}
    shown = gallery["shown"] is True
    tiles = {entry["attack"]: entry for entry in gallery["attacks"]}
    attacks = [a for a in evidence["attacks"] if a["name"].startswith(KIND)]
    _refuse_hidden(gallery, shown)
    trials = [_trial(attack, tiles.get(attack["name"])) for attack in attacks]
    return Chapter(_decisions(evidence), tuple(sorted(trials, key=lambda trial: trial.goal)), shown)


def holds_pictures(evidence: Evidence) -> bool:
    """Whether the evidence was made to show reconstructions; evidence of an earlier midguard never was."""
    figures = evidence.get("figures")
    gallery = figures.get("gallery") if isinstance(figures, Mapping) else None
    return isinstance(gallery, Mapping) and gallery.get("shown") is True


def _refuse_hidden(gallery: Evidence, shown: bool) -> None:
    """The evidence travels with the report: it must not hold what the report says is left out."""
    hidden = [entry["attack"] for entry in gallery["attacks"] if any(tile["pictures"] for tile in entry["tiles"])]
    if hidden and not shown:
        raise ValueError(f"the gallery says that it shows nothing, but holds pictures of {', '.join(hidden)}")


def _decisions(evidence: Evidence) -> tuple[Decision, ...]:
    goals = {attack["name"]: attack["threat"]["goal"] for attack in evidence["attacks"]}
    found = [f for f in evidence["findings"] if f["measure"].startswith(KIND)]
    return tuple(Decision(finding, goals.get(finding["by"], "")) for finding in found)


def _trial(attack: Evidence, tiles: Evidence | None) -> Trial:
    entry, goal = attack.get("inversion"), attack["threat"]["goal"]
    return Trial(
        attack=attack,
        goal=goal,
        after=_GOALS.get(goal, ""),
        metric="" if entry is None else entry["metric"],
        groups=() if entry is None else _groups(entry, goal),
        evaluators=() if entry is None else tuple(_evaluator(e) for e in entry["evaluators"]),
        gallery=None if tiles is None else _gallery(tiles, attack["name"]),
    )


def _groups(entry: Evidence, goal: str) -> tuple[Group, ...]:
    """The rows by kind, in the order of the kinds; one that is unknown keeps its own name."""
    means = _MEANS if goal == "class-representative" else _MEANS | _OF_RECORDS
    kinds = dict.fromkeys([*_GROUPS, *(row["kind"] for row in entry["rows"])])
    grouped = ((kind, tuple(_row(row, means) for row in entry["rows"] if row["kind"] == kind)) for kind in kinds)
    return tuple(Group(_GROUPS.get(kind, kind.capitalize()), rows) for kind, rows in grouped if rows)


def _row(row: Evidence, means: Mapping[str, str]) -> Row:
    return Row(
        name=row["name"],
        means=means.get(row["name"], ""),
        mse=_known(row["mse"]),
        ssim=_known(row["ssim"]),
        feature=_known(row["feature"]),
        identified=_known(row["identified"]),
        rank1=_known(row["rank1"]),
        gap=_known(row["gap"]),
        targets=row["targets"],
        reason=row["reason"],
    )


def _evaluator(entry: Evidence) -> Evaluator:
    return Evaluator(entry["name"], _known(entry["accuracy"]), _known(entry["falsePositives"]))


def _gallery(entry: Evidence, attack: str) -> Gallery:
    tiles = entry["tiles"]
    drawn = tuple(_tile(tile, entry["goal"], attack) for tile in tiles[:MAX_TILES])
    return Gallery(drawn, max(0, len(tiles) - MAX_TILES))


def _tile(tile: Evidence, goal: str, attack: str) -> Tile:
    target, found = target_words(goal, tile["target"]), tile["pictures"] or {}
    pictures = tuple(picture(found[part], f"{words}, {target}, {attack}") for part, words in _PARTS if found)
    return Tile(target, _known(tile["distance"]), _known(tile["baseline"]), tile["identified"], pictures)


def _known(value: float | None) -> float | None:
    """The number, if it is one. Raises: TypeError where it is no number."""
    return None if value is None or math.isnan(value) else value
