"""The report's figures with their captions, from the evidence."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from . import figures, membership
from .phrases import Evidence, bounds, count, listed, measured, number, percent, rule, several, status
from .wording import target_words

#: So many records of the worst protected are named.
_NAMED_RECORDS = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its words."""

    svg: Markup
    caption: str


def illustrate(evidence: Evidence) -> tuple[Figure, ...]:
    """Every figure of the report, in order; one that has nothing to draw says so."""
    return (
        *_interval_figures(evidence),
        _roc_figure(evidence),
        *_score_figures(evidence),
        *_class_figures(evidence),
        *_power_figures(evidence),
        *_distance_figures(evidence),
        _budget_figure(evidence),
    )


def _interval_figures(evidence: Evidence) -> tuple[Figure, ...]:
    rows = [_interval_row(finding) for finding in evidence["findings"]]
    parts = [rows[i : i + figures.MAX_ROWS] for i in range(0, len(rows), figures.MAX_ROWS)]
    caption = (
        "Every requirement's interval against its limit. The dashed line is the limit; to its right lies what the "
        "policy forbids. A dot is a pass, a square a fail, a ring undecided, a triangle waived; an arrow points beyond "
        "the axis."
    )
    return tuple(
        Figure(Markup(figures.interval_plot(f"fig-interval-{i}", part)), caption) for i, part in enumerate(parts)
    )


def _interval_row(finding: Evidence) -> figures.Interval:
    b = bounds(finding)
    return figures.Interval(
        name=finding["id"],
        status=status(finding["status"]).word,
        value=b.value,
        low=b.low,
        high=b.high,
        limit=finding["limit"],
        higher_is_safer=finding["direction"] == "min",
        text=measured(finding, finding["limit"]),
        rule=f"limit {rule(finding)}",
    )


def _roc_figure(evidence: Evidence) -> Figure:
    curves = [
        membership.Roc(c["attack"], c["fpr"], c["tpr"], c["low"] or (), c["high"] or (), c["members"], c["nonmembers"])
        for c in evidence["figures"]["roc"]
    ]
    points = [
        membership.RocLimit(f["at"]["fpr"], f["limit"]) for f in _of(evidence, "membership.tpr") if "fpr" in f["at"]
    ]
    limits = membership.RocLimits(_advantage_limit(evidence), tuple(dict.fromkeys(points)))
    proved = _proved(evidence)
    caption = (
        f"Membership attacks, both axes logarithmic{_sizes(curves)}. The dashed diagonal is chance: an attack on it "
        "learns nothing. The band holds at each point by itself and is drawn for the eye; no verdict rests on it. "
        f"Rates below an axis lie on its edge.{_proved_words(proved)}"
    )
    return Figure(Markup(membership.roc_plot("fig-roc", curves, limits, proved)), caption)


def _advantage_limit(evidence: Evidence) -> float | None:
    return min((f["limit"] for f in _of(evidence, "membership.advantage")), default=None)


def _proved(evidence: Evidence) -> membership.Proved | None:
    """What the ledger leaves possible; older evidence does not say."""
    bound = evidence["figures"].get("bound")
    return None if bound is None else membership.Proved(bound["fpr"], bound["tpr"], bound["basis"])


def _proved_words(proved: membership.Proved | None) -> str:
    if proved is None:
        return ""
    if proved.basis == "proved":
        return " By the ledger of the training, no attack on one record reaches into the shaded region."
    return (
        " If the declared ledger is true, no attack on one record reaches into the shaded region; midguard did not "
        "write it."
    )


def _score_figures(evidence: Evidence) -> tuple[Figure, ...]:
    """The strongest attack's; older evidence has none."""
    entries = evidence["figures"].get("scores", [])[:1]
    return tuple(_score_figure(entry) for entry in entries)


def _score_figure(entry: Evidence) -> Figure:
    scores = membership.Scores(entry["attack"], entry["edges"], entry["members"], entry["nonmembers"])
    caption = (
        f"{entry['attack']}: how members score beside nonmembers. Where both lie alike, the score tells nothing. Each "
        "area is a share of the records; the outermost parts hold everything beyond the axis, and each part "
        "shows nobody or at least five people of a kind."
    )
    return Figure(Markup(membership.score_plot("fig-scores", scores)), caption)


def _class_figures(evidence: Evidence) -> tuple[Figure, ...]:
    entry = evidence["figures"].get("classes")
    return () if entry is None else (_class_figure(entry, _advantage_limit(evidence)),)


def _class_figure(entry: Evidence, limit: float | None) -> Figure:
    risks = [
        membership.ClassRisk(str(c["class"]), c["value"], c["low"], c["high"], c["members"], c["nonmembers"])
        for c in entry["classes"]
    ]
    few = entry["tooFew"]
    left = f" Not shown: {several(few, 'class', 'classes')} with too few records of either kind." if few else ""
    caption = (
        f"{entry['attack']}: advantage within each class, the most exposed first. The intervals hold for all classes "
        f"and attacks together with a confidence of {percent(entry['confidence'])}.{left}"
    )
    return Figure(Markup(membership.class_plot("fig-classes", entry["attack"], risks, limit)), caption)


def _power_figures(evidence: Evidence) -> tuple[Figure, ...]:
    entries = evidence["figures"].get("budget", [])
    if not entries:
        return ()
    said = [f"{e['attack']}: {e['doubling']}." for e in entries[: membership.MAX_NAMED] if e["doubling"]]
    caption = (
        "What the attacks that use reference models achieve with fewer of them, on the same records, with the "
        f"interval of each point by itself. {' '.join(said)}"
    )
    powers = [_power(entry) for entry in entries]
    return (Figure(Markup(membership.power_plot("fig-power", powers)), caption.rstrip()),)


def _power(entry: Evidence) -> membership.Power:
    points = tuple(
        membership.PowerPoint(p["references"], _estimate(p["auc"]), _estimate(p["tpr"])) for p in entry["points"]
    )
    return membership.Power(entry["attack"], points, entry["points"][0]["tpr"]["fpr"])


def _estimate(entry: Evidence) -> membership.Estimate:
    return membership.Estimate(entry["value"], entry["low"], entry["high"])


def _sizes(curves: list[membership.Roc]) -> str:
    """Over how many records, where it is the same for all curves."""
    sizes = {(c.members, c.nonmembers) for c in curves}
    if len(sizes) != 1:
        return ""
    members, nonmembers = sizes.pop()
    return f", over {count(members)} members and {count(nonmembers)} nonmembers"


def _of(evidence: Evidence, measure: str) -> list[Evidence]:
    return [finding for finding in evidence["findings"] if finding["measure"] == measure]


def _distance_figures(evidence: Evidence) -> tuple[Figure, ...]:
    entries = evidence["figures"]["distances"]
    if not entries:
        words = "No inversion attack gave a distance: there is nothing to draw."
        empty = figures.message("fig-distance-0", "Inversion attacks: distance to each target", words)
        return (Figure(Markup(empty), "Inversion attacks: distance to each target."),)
    return tuple(_distance_figure(i, entry, evidence) for i, entry in enumerate(entries))


def _distance_figure(i: int, entry: Evidence, evidence: Evidence) -> Figure:
    judged = [f for f in _of(evidence, "inversion.distance") if f["at"].get("metric", "mse") == entry["metric"]]
    distances = figures.Distances(
        metric=entry["metric"],
        targets=entry["targets"],
        attack=entry["attack_distance"],
        baseline=entry["baseline_distance"],
        baseline_name=entry["baseline"],
        limit=max((f["limit"] for f in judged), default=None),
        floor=entry.get("floor"),
    )
    caption = (
        f"{entry['attack']} ({entry['goal']}): distance of each reconstruction to its target, "
        f"beside the best guess without the model ({entry['baseline']}). A dot below its ring is closer than that "
        "guess. The bar is the limit times the target's own baseline; the requirement is judged over all targets "
        f"together.{_floor_words(entry)}{_worst_words(entry)}"
    )
    return Figure(Markup(figures.distance_plot(f"fig-distance-{i}", entry["attack"], distances)), caption)


def _floor_words(entry: Evidence) -> str:
    """What the floor is; older evidence holds none."""
    if entry.get("floor") is None:
        return ""
    return (
        " The dotted line is the floor: how near the same attack comes, at the requirement's quantile, where the label "
        "alone is released. Whatever is done to the scores, no output defence can keep it farther away."
    )


def _worst_words(entry: Evidence) -> str:
    """The targets that are worst protected, by name; of records, which are named by their rank alone, the first."""
    worst = entry.get("worst", ())
    most = len(worst) if entry["goal"] == "class-representative" else _NAMED_RECORDS
    named = [
        f"{target_words(entry['goal'], w['target'])} ({number(w['distance'])}, guess {number(w['baseline'])})"
        for w in worst[:most]
    ]
    named += [f"{len(worst) - most} more up to {number(worst[-1]['distance'])}"] if len(worst) > most else []
    return f" The worst protected of the targets (5 %, at most 20): {listed(named)}." if named else ""


def _budget_figure(evidence: Evidence) -> Figure:
    account = evidence["account"]
    caption = "ε over the steps of training, the policy's limit, and what each accountant says of the whole training."
    if account is None:
        return Figure(
            Markup(figures.message("fig-budget", "Privacy budget ε over training", _no_account(evidence))), caption
        )
    return Figure(Markup(figures.budget_plot("fig-budget", _budget(account, _epsilon_limit(evidence)))), caption)


def _no_account(evidence: Evidence) -> str:
    """Why there is no ε to draw."""
    ledger = evidence["subject"]["ledger"]
    if ledger is None:
        return "The subject has no ledger: what training spent is not on record."
    if any(event["kind"] == "non-private" for event in ledger["events"]):
        return "ε is unbounded: training used the records without a mechanism."
    return "No ε was accounted: no requirement asks for it, or the accountants failed."


def _epsilon_limit(evidence: Evidence) -> float | None:
    """The policy's smallest limit at the δ of the account; a refuted claim is no limit of the policy."""
    delta = evidence["account"]["delta"]
    judged = [f for f in _of(evidence, "privacy.epsilon") if f["basis"] != "attacked"]
    return min((f["limit"] for f in judged if f["at"].get("delta", delta) == delta), default=None)


def _budget(account: Evidence, limit: float | None) -> figures.Budget:
    return figures.Budget(
        steps=[point["step"] for point in account["curve"]],
        epsilon=[point["epsilon"] for point in account["curve"]],
        spent=tuple(figures.Spent(a["name"], a["epsilon"], a["error"] or 0.0) for a in account["accountants"]),
        limit=limit,
        delta=account["delta"],
    )
