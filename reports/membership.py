"""The figures of membership attacks: curves, score distributions, risk by class, power by reference models.

Like `figures`, pure functions from numbers to inline SVG, and nothing is told by colour alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .drawing import (
    BAND,
    CHANCE_DASH,
    GUIDE_DASH,
    LIMIT,
    LIMIT_DASH,
    LINE,
    QUIET,
    RULE,
    WIDTH,
    Entry,
    Plane,
    Scale,
    axes,
    dot,
    fit,
    is_number,
    left_out,
    legend,
    line,
    number,
    points_of,
    polyline,
    svg,
    tag,
    text,
    thin,
)
from .figures import message

#: So many curves are named, the rest are drawn behind them; so many classes and limits are drawn.
MAX_NAMED, MAX_CLASSES, MAX_LIMITS = 4, 20, 5
_OTHERS, _PROVED, _PROVED_EDGE, _PROVED_DASH = "#a9b3bd", "#f0eddf", "#6b5d1f", "6 2"


@dataclass(frozen=True, slots=True)
class _Stroke:
    """How one of several lines is told from the others."""

    color: str
    dash: str
    width: float = 1.8

    @property
    def sample(self) -> str:
        return line(0, 0, 24, 0, self.color, self.width, self.dash)


#: The strongest attack's is the boldest.
_STROKES = (
    _Stroke(LINE, "", 2.4),
    _Stroke("#17603c", "10 3"),
    _Stroke("#7a5200", "5 3"),
    _Stroke("#5f2a70", "2 2"),
)


@dataclass(frozen=True, slots=True)
class Roc:
    """An attack's ROC curve with its band: equally long sequences, all in [0, 1]."""

    name: str
    fpr: Sequence[float | None]
    tpr: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    members: int = 0
    nonmembers: int = 0


@dataclass(frozen=True, slots=True)
class RocLimits:
    """What a policy allows on the ROC plane.

    Attributes:
        advantage: The curve must stay under chance plus this; `None` where the policy does not say.
        points: Highest true-positive rate that is allowed at a false-positive rate.
    """

    advantage: float | None = None
    points: tuple[RocLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class RocLimit:
    """The highest true-positive rate that a policy allows at one false-positive rate."""

    fpr: float
    tpr: float


@dataclass(frozen=True, slots=True)
class Proved:
    """What a ledger leaves possible to any attack.

    Attributes:
        fpr: False-positive rates, rising.
        tpr: The highest true-positive rate at each.
        basis: `proved` where midguard wrote the ledger, `declared` elsewhere.
    """

    fpr: Sequence[float]
    tpr: Sequence[float]
    basis: str


@dataclass(frozen=True, slots=True)
class Scores:
    """How members and nonmembers score: counts between neighbouring edges, the outer ones with all beyond."""

    name: str
    edges: Sequence[float]
    members: Sequence[int]
    nonmembers: Sequence[int]


@dataclass(frozen=True, slots=True)
class ClassRisk:
    """An attack's advantage within one class, with its interval."""

    name: str
    value: float
    low: float
    high: float
    members: int
    nonmembers: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PowerPoint:
    """What an attack achieves with so many reference models."""

    references: int
    auc: Estimate
    tpr: Estimate


@dataclass(frozen=True, slots=True)
class Power:
    """What an attack achieves by the number of its reference models, rising; the TPR at one FPR."""

    name: str
    points: tuple[PowerPoint, ...]
    fpr: float


# ---------------------------------------------------------------------------------------------------------------------
# ROC
# ---------------------------------------------------------------------------------------------------------------------


def roc_plot(key: str, curves: Sequence[Roc], limits: RocLimits, proved: Proved | None = None) -> str:
    """True-positive against false-positive rate on logarithmic axes; the first curves are named, the rest grey.

    Args:
        key: Unique in the document.
        curves: The strongest first.
        limits: What the policy allows.
        proved: What a ledger leaves possible; `None` where it bounds nothing.
    """
    title = "Membership attacks: true-positive rate over false-positive rate"
    if not curves:
        return message(key, title, "No membership attack gave a curve: there is nothing to draw.")
    key_box = legend(_roc_legend(curves, limits, proved), 8)
    floor, top = _roc_floor(curves, limits), key_box.height + 12
    x = Scale(floor, 1.0, 58, WIDTH - 12, log=True)
    y = Scale(floor, 1.0, top + 330, top, log=True)
    edge = _proved_edge(proved, x, y)
    body = [key_box.body, _ruled_out(edge, x, y), _band(curves[0], x, y)]
    body.append(polyline(edge, _PROVED_EDGE, 1.5, "proved", _PROVED_DASH))
    body.append(axes(Plane(x, y, "false-positive rate", "true-positive rate")))
    body.append(line(x.start, y.start, x.end, y.end, QUIET, 1, CHANCE_DASH, "chance"))
    body += [_curve(c, _Stroke(_OTHERS, "", 1.1), "other-curve", x, y) for c in reversed(curves[MAX_NAMED:])]
    body += [_advantage(limits.advantage, floor, x, y), *(_ceiling(p, x, y) for p in limits.points[:MAX_LIMITS])]
    named = zip(curves[:MAX_NAMED], _STROKES, strict=False)
    body += reversed([_curve(c, stroke, "curve", x, y) for c, stroke in named])
    return svg(key, top + 372, title, _roc_words(curves, proved), body)


def _roc_words(curves: Sequence[Roc], proved: Proved | None) -> str:
    words = [f"{c.name}: {c.members} members, {c.nonmembers} nonmembers{_read(c)}" for c in curves]
    if proved is not None:
        words.append(f"the ledger leaves any attack at most {_level(proved)}")
    return "; ".join(words)


def _read(curve: Roc) -> str:
    """The true-positive rate at 1 % false positives, for those who do not see the curve."""
    known = [t for f, t in zip(curve.fpr, curve.tpr, strict=True) if is_number(f) and is_number(t) and f <= 0.01]
    return f", true-positive rate {number(max(known))} at false-positive rate 0.01" if known else ""


def _level(proved: Proved) -> str:
    reached = next((t for f, t in zip(proved.fpr, proved.tpr, strict=True) if f >= 0.01 * (1 - 1e-9)), 1.0)
    return f"{number(reached)} at false-positive rate 0.01"


def _roc_floor(curves: Sequence[Roc], limits: RocLimits) -> float:
    """The lowest rate on both axes: the decade of the smallest rate that records or limits can tell, down to 1e-6."""
    counts = [n for c in curves for n in (c.members, c.nonmembers) if n > 0]
    rates = [1 / n for n in counts] + [v for p in limits.points for v in (p.fpr, p.tpr) if v > 0]
    smallest = min([0.1, *rates])
    return 10.0 ** max(-6, math.floor(math.log10(smallest) + 1e-9))


def _known(curve: Roc) -> list[tuple[float, float]]:
    return [(f, t) for f, t in zip(curve.fpr, curve.tpr, strict=True) if is_number(f) and is_number(t)]


def _curve(curve: Roc, stroke: _Stroke, role: str, x: Scale, y: Scale) -> str:
    points = [(x(f), y(t)) for f, t in _known(curve)]
    return polyline(points, stroke.color, stroke.width, role, stroke.dash) if len(points) > 1 else ""


def _proved_edge(proved: Proved | None, x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Where the region begins that the ledger rules out, in units."""
    if proved is None:
        return []
    known = [(f, t) for f, t in zip(proved.fpr, proved.tpr, strict=True) if f >= x.low * (1 - 1e-9)]
    below = sum(t < 1 for _, t in known)  # where the bound reaches 1 it rules nothing out
    return thin([(x(f), y(t)) for f, t in known[: below + 1]])


def _ruled_out(edge: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    if not edge:
        return ""
    region = [(x.start, y.end), *edge, (edge[-1][0], y.end)]
    return tag("polygon", points=points_of(region), fill=_PROVED, stroke="none", role_="proved-area")


def _band(curve: Roc, x: Scale, y: Scale) -> str:
    """The pointwise band around the curve; nothing where there is none."""
    if not len(curve.fpr) == len(curve.low) == len(curve.high) or len(_known(curve)) < 2:
        return ""
    ends = zip(curve.fpr, curve.low, curve.high, strict=True)
    known = [(f, a, b) for f, a, b in ends if is_number(f) and is_number(a) and is_number(b)]
    edge = [(x(f), y(b)) for f, _, b in known] + [(x(f), y(a)) for f, a, _ in reversed(known)]
    return tag("polygon", points=points_of(thin(edge)), fill=BAND, stroke="none", role_="band") if edge else ""


def _advantage(limit: float | None, floor: float, x: Scale, y: Scale) -> str:
    """The curve of chance plus the allowed advantage."""
    if limit is None:
        return ""
    rates = [floor ** (1 - i / 60) for i in range(61)]
    points = [(x(r), y(r + limit)) for r in rates if r + limit <= 1]
    return polyline([*points, (x(max(floor, 1 - limit)), y(1.0))], LIMIT, 1.5, "limit-advantage", LIMIT_DASH)


def _ceiling(limit: RocLimit, x: Scale, y: Scale) -> str:
    """The highest true-positive rate that is allowed at one false-positive rate."""
    at, height = x(limit.fpr), y(limit.tpr)
    start, end = max(x.start, at - 13), min(x.end, at + 13)
    return line(at, y.start, at, y.end, LIMIT, 1, GUIDE_DASH) + line(
        start, height, end, height, LIMIT, 3, role="limit-tpr"
    )


def _roc_legend(curves: Sequence[Roc], limits: RocLimits, proved: Proved | None) -> list[Entry]:
    entries = [_named(curve, stroke) for curve, stroke in zip(curves[:MAX_NAMED], _STROKES, strict=False)]
    others = len(curves) - MAX_NAMED
    if others > 0:
        words = f"{others} weaker attack{'s' if others > 1 else ''}"
        entries.append(Entry(line(0, 0, 24, 0, _OTHERS, 1.1), words))
    if curves[0].low:
        entries.append(Entry(tag("rect", x=0, y=-5, width=24, height=10, fill=BAND), "band of the first"))
    entries.append(Entry(line(0, 0, 24, 0, QUIET, 1, CHANCE_DASH), "chance"))
    if proved is not None:
        box = tag("rect", x=0, y=-6, width=24, height=11, fill=_PROVED)
        sample = box + line(0, 5, 24, 5, _PROVED_EDGE, 1.5, _PROVED_DASH)
        words = "ruled out by the ledger" if proved.basis == "proved" else "ruled out if the declared ledger is true"
        entries.append(Entry(sample, words))
    if limits.advantage is not None:
        entries.append(Entry(line(0, 0, 24, 0, LIMIT, 1.5, LIMIT_DASH), f"limit: advantage {number(limits.advantage)}"))
    for p in limits.points[:MAX_LIMITS]:
        sample = line(12, -7, 12, 7, LIMIT, 1, GUIDE_DASH) + line(0, 0, 24, 0, LIMIT, 3)
        words = f"limit: true-positive rate {number(p.tpr)} at false-positive rate {number(p.fpr)}"
        entries.append(Entry(sample, words))
    missing = len(limits.points) - MAX_LIMITS
    return [*entries, Entry("", f"{missing} more limits not drawn")] if missing > 0 else entries


def _named(curve: Roc, stroke: _Stroke) -> Entry:
    name = fit(curve.name, 230)
    return Entry(stroke.sample, name) if len(_known(curve)) > 1 else Entry("", f"{name}: no curve")


# ---------------------------------------------------------------------------------------------------------------------
# Score distributions
# ---------------------------------------------------------------------------------------------------------------------

#: The height of a bar is the share of records in this part of the axis.
_PART = 30


def score_plot(key: str, scores: Scores) -> str:
    """How an attack's scores of members lie beside those of nonmembers; areas are shares."""
    title = f"{scores.name}: scores of members and nonmembers"
    if len(scores.edges) < 3 or not scores.edges[-1] > scores.edges[0]:
        return message(key, title, "All scores fall together: there is nothing to draw.")
    heights = [_heights(scores.edges, counts) for counts in (scores.members, scores.nonmembers)]
    inside, outside = sum(scores.members), sum(scores.nonmembers)
    entries = [
        Entry(tag("rect", x=0, y=-5, width=24, height=10, fill=BAND, stroke=LINE), f"{inside} members"),
        Entry(line(0, 0, 24, 0, LIMIT, 1.6, "4 2"), f"{outside} nonmembers"),
    ]
    key_box = legend(entries, 8)
    top = key_box.height + 12
    x = Scale(scores.edges[0], scores.edges[-1], 58, WIDTH - 20)
    y = Scale(0.0, 1.06 * max(max(h) for h in heights) or 1.0, top + 170, top)
    plane = Plane(x, y, "score, higher means member", f"share in 1/{_PART} of the axis")
    steps = [[(x(a), y(h)) for a, h in _steps(scores.edges, found)] for found in heights]
    area = points_of([(x.start, y.start), *steps[0], (x.end, y.start)])
    members = tag("polygon", points=area, fill=BAND, stroke=LINE, stroke_width=1.4, role_="members")
    body = [key_box.body, members, axes(plane), polyline(steps[1], LIMIT, 1.6, "nonmembers", "4 2")]
    return svg(key, top + 212, title, _score_words(scores), body)


def _heights(edges: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Share of the records in each bin, as if it were one part of the axis wide."""
    part, whole = (edges[-1] - edges[0]) / _PART, sum(counts) or 1
    widths = [max(b - a, part / _PART) for a, b in itertools.pairwise(edges)]
    return [n / whole * part / width for n, width in zip(counts, widths, strict=True)]


def _steps(edges: Sequence[float], heights: Sequence[float]) -> list[tuple[float, float]]:
    return [(edges[i + side], h) for i, h in enumerate(heights) for side in (0, 1)]


def _score_words(scores: Scores) -> str:
    """Where half of the records of each kind lie above."""
    words = (_half(scores.edges, counts) for counts in (scores.members, scores.nonmembers))
    members, nonmembers = (number(w) for w in words)
    return f"half of the members score above about {members}, half of the nonmembers above about {nonmembers}"


def _half(edges: Sequence[float], counts: Sequence[int]) -> float:
    passed = 0
    for i, n in enumerate(counts):
        passed += n
        if 2 * passed >= sum(counts):
            return (edges[i] + edges[i + 1]) / 2
    return math.nan


# ---------------------------------------------------------------------------------------------------------------------
# Risk by class
# ---------------------------------------------------------------------------------------------------------------------


def class_plot(key: str, attack: str, risks: Sequence[ClassRisk], limit: float | None) -> str:
    """An attack's advantage within each class, the most exposed first.

    Args:
        key: Unique in the document.
        attack: The attack.
        risks: In the order in which they are drawn.
        limit: What the policy allows over all records together; `None` where it does not say.
    """
    title = f"{attack}: advantage within each class"
    if not risks:
        return message(key, title, "No class has enough members and nonmembers: there is nothing to draw.")
    shown = risks[:MAX_CLASSES]
    key_box = legend(_class_legend(limit), 8)
    top, pitch = key_box.height + 10, 20.0
    bottom = top + pitch * len(shown)
    ends = [v for risk in shown for v in (risk.low, risk.high)] + [0.0] + ([] if limit is None else [limit])
    x = Scale(max(-1.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03), 104, 366)
    y = Scale(0.0, 1.0, bottom, top)
    body = [key_box.body, line(x.start, bottom, x.end, bottom, QUIET, 1)]
    body += [_class_tick(tick, x, y) for tick in x.ticks()]
    body.append(line(x(0.0), top, x(0.0), bottom, QUIET, 1, CHANCE_DASH, "chance"))
    body += [] if limit is None else [line(x(limit), top, x(limit), bottom, LIMIT, 1.6, LIMIT_DASH, "limit")]
    body += [_class_row(risk, x, top + pitch * (i + 0.5)) for i, risk in enumerate(shown)]
    body.append(text((x.start + x.end) / 2, bottom + 32, "advantage", anchor="middle", fill=QUIET))
    body.append(left_out(len(risks) - len(shown), "classes, less exposed,", bottom + 50))
    words = "; ".join(f"class {r.name}: {number(r.value)} [{number(r.low)}, {number(r.high)}]" for r in shown)
    return svg(key, bottom + (56 if len(risks) > len(shown) else 38), title, words, body)


def _class_tick(tick: float, x: Scale, y: Scale) -> str:
    at = x(tick)
    grid = line(at, y.end, at, y.start, RULE, 0.5)
    return grid + text(at, y.start + 16, number(tick), anchor="middle", role="tick-x")


def _class_row(risk: ClassRisk, x: Scale, y: float) -> str:
    name = f"class {risk.name}"
    ends = [line(x(end), y - 4, x(end), y + 4, LINE, 2) for end in (risk.low, risk.high)]
    count = f"{risk.members} in, {risk.nonmembers} out"
    return "".join(
        [
            text(0, y + 4, fit(name, 98), hover=name),
            line(x(risk.low), y, x(risk.high), y, LINE, 2, role="interval"),
            *ends,
            dot(x(risk.value), y),
            text(376, y + 4, f"{risk.value:z.2f} [{risk.low:z.2f}, {risk.high:z.2f}]", role="value"),
            text(WIDTH, y + 4, count, anchor="end", fill=QUIET),
        ]
    )


def _class_legend(limit: float | None) -> list[Entry]:
    entries = [
        Entry(line(0, 0, 24, 0, LINE, 2) + dot(12, 0), "advantage and its interval"),
        Entry(line(0, 0, 24, 0, QUIET, 1, CHANCE_DASH), "chance"),
    ]
    if limit is None:
        return entries
    return [*entries, Entry(line(0, 0, 24, 0, LIMIT, 1.6, LIMIT_DASH), f"limit over all classes: {number(limit)}")]


# ---------------------------------------------------------------------------------------------------------------------
# Power by reference models
# ---------------------------------------------------------------------------------------------------------------------


def power_plot(key: str, powers: Sequence[Power]) -> str:
    """What attacks achieve by the number of their reference models: AUC on the left, TPR at a FPR on the right."""
    title = "What more reference models change"
    shown = [power for power in powers if len(power.points) > 1][:MAX_NAMED]
    if not shown:
        return message(key, title, "No attack ran with several numbers of reference models: there is nothing to draw.")
    key_box = legend([Entry(s.sample, fit(p.name, 230)) for p, s in zip(shown, _STROKES, strict=False)], 8)
    top, half = key_box.height + 12, WIDTH / 2
    counts = sorted({point.references for power in shown for point in power.points})
    body = [key_box.body]
    for panel, left in (("auc", 0.0), ("tpr", half)):
        values = [getattr(point, panel) for power in shown for point in power.points]
        x = Scale(counts[0] / 1.3, counts[-1] * 1.3, left + 58, left + half - 14, log=True)
        y = Scale(_below(values, panel), _above(values), top + 180, top)
        rate = "AUC" if panel == "auc" else f"true-positive rate at FPR {number(shown[0].fpr)}"
        body.append(axes(Plane(x, y, "reference models", rate), x_ticks=False))
        body += [_count_tick(n, x, y) for n in counts]
        body += [_power_line(p, panel, i, len(shown), x, y) for i, p in enumerate(shown)]
    body.append(left_out(len(powers) - len(shown), "attacks", top + 228))
    return svg(key, top + (236 if len(powers) > len(shown) else 220), title, _power_words(shown), body)


def _below(values: Sequence[Estimate], panel: str) -> float:
    low = min(v.low for v in values)
    return max(0.0, math.floor(low * 20) / 20) if panel == "auc" else 0.0


def _above(values: Sequence[Estimate]) -> float:
    return min(1.0, 1.05 * max(v.high for v in values)) or 1.0


def _count_tick(count: int, x: Scale, y: Scale) -> str:
    at = x(count)
    return line(at, y.start, at, y.start + 4, QUIET, 1) + text(
        at, y.start + 16, str(count), anchor="middle", role="tick-x"
    )


def _power_line(power: Power, panel: str, i: int, of: int, x: Scale, y: Scale) -> str:
    """One attack's line with an interval at each point, a little beside the others'."""
    stroke, aside = _STROKES[i], 5.0 * (i - (of - 1) / 2)
    found = [(x(point.references) + aside, getattr(point, panel)) for point in power.points]
    bars = [line(at, y(e.low), at, y(e.high), stroke.color, 1.2, role=f"{panel}-interval") for at, e in found]
    dots = [tag("circle", cx=at, cy=y(e.value), r=3, fill=stroke.color) for at, e in found]
    path = polyline([(at, y(e.value)) for at, e in found], stroke.color, stroke.width, panel, stroke.dash)
    return "".join([*bars, path, *dots])


def _power_words(shown: Sequence[Power]) -> str:
    return "; ".join(
        f"{power.name}: "
        + ", ".join(f"AUC {number(p.auc.value)} with {p.references} reference models" for p in power.points)
        for power in shown
    )
