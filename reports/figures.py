"""The report's figures: pure functions from numbers to inline SVG. Those of membership attacks stand in `membership`.

Nothing is told by colour alone: verdicts are words and shapes, lines have their own dashes. Where there is nothing to
draw the figure says so in its own place.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .drawing import (
    LIMIT,
    LIMIT_DASH,
    LINE,
    QUIET,
    RULE,
    TINT,
    WIDTH,
    Entry,
    Plane,
    Scale,
    axes,
    character,
    dot,
    fit,
    is_number,
    left_out,
    legend,
    line,
    number,
    polyline,
    ring,
    square,
    svg,
    tag,
    text,
    triangle,
)

#: How a metric's distance is written.
METRICS = {"mse": "MSE", "ssim": "1 − SSIM", "feature": "feature distance"}
#: More than this is not drawn; the figure says how many are missing.
MAX_TARGETS, MAX_ROWS = 40, 20
_FLOOR, _FLOOR_DASH = "#17603c", "2 3"


@dataclass(frozen=True, slots=True)
class Interval:
    """A requirement's measurement and limit; `None` where nothing was measured, infinite where there is no bound."""

    name: str
    status: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    higher_is_safer: bool
    text: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Distances:
    """How close an attack came to each target, beside the best guess without the model.

    Attributes:
        metric: How distance is measured.
        targets: What each is called.
        attack: The attack's distances.
        baseline: Those of the best guess.
        baseline_name: What that guess is.
        limit: How much of the baseline the policy asks for; `None` where it does not say.
        floor: The distance that the label alone allows at the policy's quantile; `None` where that is not known.
    """

    metric: str
    targets: Sequence[object]
    attack: Sequence[float | None]
    baseline: Sequence[float | None]
    baseline_name: str = "best guess without the model"
    limit: float | None = None
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What one accountant says the whole training cost; an infinite ε is no bound."""

    accountant: str
    epsilon: float | None
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """ε over the steps of training, what each accountant says of all of it, and the policy's limit."""

    steps: Sequence[float]
    epsilon: Sequence[float | None]
    spent: tuple[Spent, ...]
    limit: float | None
    delta: float | None


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def interval_plot(key: str, rows: Sequence[Interval]) -> str:
    """Every requirement's interval against its limit, one row each, in shares of the limit.

    0 is the limit, to its right is what the policy forbids; a limit of zero is drawn in the measure's own unit.
    """
    title = "Every requirement against its limit"
    if not rows:
        return message(key, title, "The policy has no requirement that could be drawn.")
    shown = rows[:MAX_ROWS]
    top, pitch = 44.0, 36.0
    bottom = top + pitch * len(shown)
    scale = Scale(-1.0, 1.0, 196, 436)
    body = [_interval_frame(scale, top, bottom)]
    body += [_interval_row(row, scale, top + pitch * (i + 0.5)) for i, row in enumerate(shown)]
    body.append(left_out(len(rows) - len(shown), "requirements", bottom + 52))
    words = "; ".join(f"{row.name}: {row.status}, {row.text or 'not measured'}, {row.rule}" for row in shown)
    return svg(key, bottom + (60 if len(rows) > len(shown) else 42), title, words, body)


def distance_plot(key: str, name: str, distances: Distances) -> str:
    """How close an inversion attack came to each target, beside the best guess without the model."""
    title = f"{name}: distance to each target"
    pairs = zip(distances.targets, distances.attack, distances.baseline, strict=True)
    known = [(t, a, b) for t, a, b in pairs if is_number(a) and is_number(b)]
    if not known:
        return message(key, title, "No target has a measured distance: there is nothing to draw.")
    closest = sorted(known, key=lambda k: k[1] / k[2] if k[2] else math.inf)[:MAX_TARGETS]
    shown = known if len(known) <= MAX_TARGETS else closest
    key_box = legend(_distance_legend(distances), 8)
    top = key_box.height + 14
    plane = _distance_plane(shown, distances, top)
    body = [key_box.body, axes(plane, x_ticks=False), _target_labels(shown, plane), _floor(distances.floor, plane)]
    body += [_target(i, a, b, distances.limit, plane) for i, (_, a, b) in enumerate(shown)]
    farther, unknown = len(known) - len(shown), len(distances.targets) - len(known)
    body.append(left_out(farther, "targets, farther from the attack,", top + 246))
    body.append(left_out(unknown, "targets without a distance", top + 246 + (16 if farther else 0)))
    words = f"{len(shown)} targets, distance {distances.metric}; baseline: {distances.baseline_name}"
    words += f"; floor of the label alone: {number(distances.floor)}" if is_number(distances.floor) else ""
    return svg(key, top + 236 + 16 * bool(farther) + 16 * bool(unknown), title, words, body)


def budget_plot(key: str, budget: Budget) -> str:
    """ε over the steps of training, beside the limit and what each accountant says of the whole."""
    title = "Privacy budget ε over training"
    points = [(s, e) for s, e in zip(budget.steps, budget.epsilon, strict=True) if is_number(e)]
    finite = [s for s in budget.spent if is_number(s.epsilon)]
    if not points and not finite:
        return message(key, title, "ε is unbounded: no accountant found a bound.")
    key_box = legend(_budget_legend(budget), 8)
    top = key_box.height + 14
    plane = _budget_plane(budget, points, top)
    body = [key_box.body, axes(plane), polyline([(plane.x(s), plane.y(e)) for s, e in points], LINE, 1.8, "epsilon")]
    body.append(_level(budget.limit, plane) if budget.limit is not None else "")
    body += [_spent(i, s, plane) for i, s in enumerate(finite)]
    words = "; ".join(f"{s.accountant}: ε = {number(s.epsilon)}" for s in budget.spent)
    return svg(key, top + 244, title, words or "no accountant's total", body)


def message(key: str, title: str, words: str) -> str:
    """A frame with words, in the place of a figure that has nothing to draw."""
    lines = textwrap.wrap(words, 90) or [""]
    height = 32.0 + 16 * len(lines)
    body = [tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, fill=TINT, stroke=RULE)]
    body += [text(WIDTH / 2, 28 + 16 * i, one, anchor="middle", size=12) for i, one in enumerate(lines)]
    return svg(key, height, title, words, body)


# ---------------------------------------------------------------------------------------------------------------------
# Intervals
# ---------------------------------------------------------------------------------------------------------------------


def relative(value: float, limit: float, higher_is_safer: bool) -> float:
    """How far a value lies beyond its limit, as a share of the limit; above 0 is what the policy forbids."""
    excess = limit - value if higher_is_safer else value - limit
    return excess / (abs(limit) or 1.0)


def _interval_frame(scale: Scale, top: float, bottom: float) -> str:
    """The two sides of the limit, the axis, and what they mean."""
    middle = scale(0)
    parts = [
        tag("rect", x=middle, y=top, width=scale.end - middle, height=bottom - top, fill=TINT),
        text((scale.start + middle) / 2, top - 10, "holds", anchor="middle", fill=QUIET),
        text((middle + scale.end) / 2, top - 10, "violated", anchor="middle", fill=QUIET),
        text(middle, top - 26, "limit", anchor="middle", fill=LIMIT, weight="bold"),
        line(middle, top - 20, middle, bottom, LIMIT, 1.6, LIMIT_DASH, "limit"),
        line(scale.start, bottom, scale.end, bottom, QUIET, 1),
    ]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        parts += [
            line(scale(tick), bottom, scale(tick), bottom + 4, QUIET, 1),
            text(scale(tick), bottom + 16, f"{tick * 100:+.0f} %" if tick else "0", anchor="middle", role="tick"),
        ]
    parts.append(text(middle, bottom + 32, "distance beyond the limit, in % of it", anchor="middle", fill=QUIET))
    return "".join(parts)


def _interval_row(row: Interval, scale: Scale, y: float) -> str:
    """A requirement: its name and verdict, its interval, its numbers."""
    parts = [
        line(0, y + 18, WIDTH, y + 18, RULE, 0.5),
        text(0, y - 3, fit(row.name, 186), weight="bold", hover=row.name),
        text(0, y + 11, row.status, fill=QUIET),
        text(448, y - 3, fit(row.text or "not measured", 192)),
        text(448, y + 11, fit(row.rule, 192), fill=QUIET),
    ]
    if row.value is None or math.isnan(row.value):
        middle = (scale.start + scale.end) / 2
        box = tag("rect", x=middle - 52, y=y - 10, width=104, height=20, fill="#ffffff", stroke=RULE)
        return "".join(parts) + box + text(middle, y + 4, "no measurement", anchor="middle", fill=QUIET)
    return "".join(parts) + _whisker(row, scale, y) + _mark(row, scale, y)


def _whisker(row: Interval, scale: Scale, y: float) -> str:
    """The interval, with caps where it ends and arrows where it goes on beyond the axis."""
    ends = [
        relative(v, row.limit, row.higher_is_safer) for v in (row.low, row.high) if v is not None and not math.isnan(v)
    ]
    if len(ends) < 2:
        return ""
    low, high = min(ends), max(ends)
    if low > scale.high or high < scale.low:
        return ""
    parts = [line(scale(low), y, scale(high), y, LINE, 2.2, role="interval")]
    for end, sign in ((low, -1), (high, 1)):
        beyond = end < scale.low if sign < 0 else end > scale.high
        parts.append(_arrow(scale(end), y, sign) if beyond else line(scale(end), y - 5, scale(end), y + 5, LINE, 2.2))
    return "".join(parts)


def _mark(row: Interval, scale: Scale, y: float) -> str:
    """The point estimate: its shape tells the verdict."""
    at = relative(row.value if row.value is not None else math.nan, row.limit, row.higher_is_safer)
    if not scale.low <= at <= scale.high:
        return _arrow(scale(at), y, 1 if at > 0 else -1)
    shapes: dict[str, Callable[[float, float], str]] = {"pass": dot, "fail": square, "waived": triangle}
    return shapes.get(row.status.lower(), ring)(scale(at), y)


def _arrow(x: float, y: float, sign: int) -> str:
    """An arrow head that points out of the axis."""
    points = f"{x:.1f},{y:.1f} {x - sign * 9:.1f},{y - 6:.1f} {x - sign * 9:.1f},{y + 6:.1f}"
    return tag("polygon", points=points, fill=LINE, role_="beyond")


# ---------------------------------------------------------------------------------------------------------------------
# Inversion distances
# ---------------------------------------------------------------------------------------------------------------------


def _distance_plane(shown: Sequence[tuple[object, float, float]], distances: Distances, top: float) -> Plane:
    values = [v for _, a, b in shown for v in (a, b)]
    values += [distances.floor] if is_number(distances.floor) else []
    metric = distances.metric
    high = max([*values, 0.0]) or 1.0
    low = min([*values, 0.0])
    x = Scale(-0.5, len(shown) - 0.5, 58, WIDTH - 12)
    y = Scale(low * 1.06, high * 1.06, top + 196, top)
    return Plane(x, y, "target", f"distance ({METRICS.get(metric, metric)})")


def _target(i: int, attack: float, baseline: float, limit: float | None, plane: Plane) -> str:
    """A target: the baseline's ring, the attack's dot, a line between them, the limit's bar."""
    at = plane.x(i)
    parts = [line(at, plane.y(attack), at, plane.y(baseline), RULE, 1.5)]
    if limit is not None:
        half = min(7.0, 0.42 * (plane.x(1) - plane.x(0))) if plane.x.high > 1 else 7.0
        level = plane.y(limit * baseline)
        parts.append(line(at - half, level, at + half, level, LIMIT, 2.4, role="limit-target"))
    return "".join([*parts, ring(at, plane.y(baseline)), dot(at, plane.y(attack))])


def _floor(floor: float | None, plane: Plane) -> str:
    """What the label alone gives away, over all targets; nothing where it is not known."""
    if not is_number(floor):
        return ""
    level = plane.y(floor)
    return line(plane.x.start, level, plane.x.end, level, _FLOOR, 1.6, _FLOOR_DASH, "floor")


def _target_labels(shown: Sequence[tuple[object, float, float]], plane: Plane) -> str:
    """The targets' names, as many as have room."""
    names = [fit(str(target), 80) for target, _, _ in shown]
    room = (plane.x.end - plane.x.start) / len(names)
    every = max(1, math.ceil((max(map(len, names)) * character() + 5) / room))
    return "".join(
        text(plane.x(i), plane.y.start + 16, name, anchor="middle", role="tick")
        for i, name in enumerate(names)
        if i % every == 0
    )


def _distance_legend(distances: Distances) -> list[Entry]:
    entries = [
        Entry(dot(12, 0), "attack"),
        Entry(ring(12, 0), f"baseline: {fit(distances.baseline_name, 230)}"),
    ]
    if distances.limit is not None:
        words = f"limit: {number(distances.limit)} × baseline"
        entries.append(Entry(line(3, 0, 21, 0, LIMIT, 2.4), words))
    if is_number(distances.floor):
        words = f"floor: {number(distances.floor)} by the label alone, which no output defence can beat"
        entries.append(Entry(line(0, 0, 24, 0, _FLOOR, 1.6, _FLOOR_DASH), words))
    return entries


# ---------------------------------------------------------------------------------------------------------------------
# Budget
# ---------------------------------------------------------------------------------------------------------------------

_SPENT_MARKS = 3


def _budget_plane(budget: Budget, points: Sequence[tuple[float, float]], top: float) -> Plane:
    spent = [s.epsilon + s.error for s in budget.spent if is_number(s.epsilon)]
    values = [e for _, e in points] + spent + ([budget.limit] if budget.limit is not None else [])
    steps = max([s for s, _ in points], default=1.0)
    x = Scale(0, steps * 1.04 or 1.0, 58, WIDTH - 40)
    y = Scale(0, max(values) * 1.1 or 1.0, top + 196, top)
    delta = "" if budget.delta is None else f" at δ = {number(budget.delta)}"
    return Plane(x, y, "step of training", f"ε{delta}")


def _level(limit: float, plane: Plane) -> str:
    return line(plane.x.start, plane.y(limit), plane.x.end, plane.y(limit), LIMIT, 1.6, LIMIT_DASH, "limit")


def _spent(i: int, spent: Spent, plane: Plane) -> str:
    """An accountant's total with its stated error, beside the end of the axis."""
    at, epsilon = plane.x.end + 10 + 12 * (i % _SPENT_MARKS), spent.epsilon or 0.0
    error = line(at, plane.y(epsilon - spent.error), at, plane.y(epsilon + spent.error), LINE, 1.4)
    return error + _spent_shape(i)(at, plane.y(epsilon))


def _spent_shape(i: int) -> Callable[[float, float], str]:
    return (triangle, square, ring)[i % _SPENT_MARKS]


def _budget_legend(budget: Budget) -> list[Entry]:
    entries = [Entry(line(0, 0, 24, 0, LINE, 1.8), "ε so far")]
    if budget.limit is not None:
        entries.append(Entry(line(0, 0, 24, 0, LIMIT, 1.6, LIMIT_DASH), f"limit: {number(budget.limit)}"))
    finite = [s for s in budget.spent if is_number(s.epsilon)]
    for i, s in enumerate(finite):
        error = f" ± {number(s.error)}" if s.error else ""
        entries.append(Entry(_spent_shape(i)(12, 0), f"{s.accountant}, whole training: {number(s.epsilon)}{error}"))
    unbounded = [s for s in budget.spent if not is_number(s.epsilon)]
    return entries + [Entry("", f"{s.accountant}: no bound") for s in unbounded]
