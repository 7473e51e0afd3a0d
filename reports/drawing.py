"""How figures are drawn: scales, axes, legends, marks and words as SVG elements.

One unit is 0.75 pt on paper (640 units fill an A4 page's text width), so a text of 11 units prints at 8.25 pt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import escape

WIDTH = 640.0
TEXT = 11.0
_GLYPH = 0.6  # width of an average character over the text's size, on the wide side
_FONT = "Liberation Sans, Helvetica Neue, Arial, DejaVu Sans, sans-serif"
INK, QUIET, RULE, TINT = "#1b2127", "#4d5862", "#c3cad1", "#eef1f4"
LINE, BAND, LIMIT = "#1f3a5f", "#c7d4e4", "#9b1c24"
CHANCE_DASH, LIMIT_DASH, GUIDE_DASH = "3 3", "9 3 2 3", "1 3"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a value lies on an axis; values beyond the axis lie on its end.

    Attributes:
        low: Value at `start`; above 0 where `log`.
        high: Value at `end`.
        start: Position of `low`, in units.
        end: Position of `high`, in units.
        log: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value, in units."""
        bounded = min(max(value, self.low), self.high)
        low, high, v = (math.log(x) if self.log else x for x in (self.low, self.high, bounded))
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> tuple[float, ...]:
        """Round values along the axis: decades, or steps of 1, 2 or 5 times a power of ten."""
        if self.log:
            return tuple(10.0**k for k in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1))
        step = _step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return tuple(k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a legend: how the thing is drawn around (0, 0), and what it is."""

    sample: str
    text: str


@dataclass(frozen=True, slots=True)
class Plane:
    """Two axes and the words beside them."""

    x: Scale
    y: Scale
    x_title: str
    y_title: str


@dataclass(frozen=True, slots=True)
class Legend:
    """A drawn legend and where it ends."""

    body: str
    height: float


def legend(entries: Sequence[Entry], top: float) -> Legend:
    """Samples with their words, wrapped to the figure's width."""
    x, y, parts = 0.0, top, []
    for entry in entries:
        needed = 30 + len(entry.text) * character() + 14
        if x and x + needed > WIDTH:
            x, y = 0.0, y + 18
        parts.append(tag("g", entry.sample, transform=f"translate({x:.1f} {y:.1f})"))
        parts.append(text(x + 30, y + 4, entry.text, role="legend"))
        x += needed
    return Legend("".join(parts), y + 10)


def axes(plane: Plane, x_ticks: bool = True) -> str:
    """Both axes with ticks, a quiet grid and titles."""
    x, y = plane.x, plane.y
    parts = [_y_tick(t, plane) for t in y.ticks()]
    if x_ticks:
        parts += [_x_tick(t, plane) for t in x.ticks()]
    middle = (y.start + y.end) / 2
    return "".join(
        [
            *parts,
            line(x.start, y.start, x.end, y.start, QUIET, 1, role="axis-x"),
            line(x.start, y.start, x.start, y.end, QUIET, 1, role="axis-y"),
            text((x.start + x.end) / 2, y.start + 32, plane.x_title, anchor="middle", fill=QUIET),
            text(x.start - 46, middle, plane.y_title, anchor="middle", fill=QUIET, turn=True),
        ]
    )


def _x_tick(value: float, plane: Plane) -> str:
    at, foot = plane.x(value), plane.y.start
    mark = line(at, foot, at, foot + 4, QUIET, 1)
    return mark + text(at, foot + 16, number(value), anchor="middle", role="tick-x")


def _y_tick(value: float, plane: Plane) -> str:
    at, left = plane.y(value), plane.x.start
    grid = line(left, at, plane.x.end, at, RULE, 0.5)
    return grid + text(left - 6, at + 4, number(value), anchor="end", role="tick-y")


def left_out(count: int, what: str, y: float) -> str:
    """How many of something are not drawn; nothing where none is missing."""
    return text(0, y, f"{count} more {what} not drawn", fill=QUIET, role="left-out") if count > 0 else ""


def dot(x: float, y: float) -> str:
    """A filled circle."""
    return tag("circle", cx=x, cy=y, r=4.2, fill=INK)


def ring(x: float, y: float) -> str:
    """A hollow circle."""
    return tag("circle", cx=x, cy=y, r=4.2, fill="#ffffff", stroke=INK, stroke_width=1.5)


def square(x: float, y: float) -> str:
    """A filled square."""
    return tag("rect", x=x - 4.5, y=y - 4.5, width=9, height=9, fill=LIMIT)


def triangle(x: float, y: float) -> str:
    """A filled triangle."""
    return tag("polygon", points=f"{x:.1f},{y - 5.5:.1f} {x - 5:.1f},{y + 4:.1f} {x + 5:.1f},{y + 4:.1f}", fill=INK)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float, dash: str = "", role: str = "") -> str:
    """A straight line; `role` becomes its class."""
    dashes = {"stroke_dasharray": dash} if dash else {}
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, role_=role, **dashes)


def polyline(points: Sequence[tuple[float, float]], stroke: str, width: float, role: str, dash: str = "") -> str:
    """A line through points; nothing for none."""
    if not points:
        return ""
    dashes = {"stroke_dasharray": dash} if dash else {}
    path = points_of(thin(points))
    return tag("polyline", points=path, fill="none", stroke=stroke, stroke_width=width, role_=role, **dashes)


def thin(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those that lie within a third of a unit of the one before."""
    whole = list(points)
    kept = whole[:1]
    for point in whole[1:-1]:
        if math.dist(point, kept[-1]) > 1 / 3:
            kept.append(point)
    return kept + whole[1:][-1:]


def points_of(points: Sequence[tuple[float, float]]) -> str:
    """Points as the attribute of that name."""
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    weight: str = "normal",
    size: float = TEXT,
    role: str = "",
    turn: bool = False,
    hover: str = "",
) -> str:
    """Words at a place; `hover` keeps the whole of words that were cut."""
    turned = {"transform": f"rotate(-90 {x:.1f} {y:.1f})"} if turn else {}
    fixed: dict[str, str | float] = {"text_anchor": anchor, "fill": fill, "font_weight": weight, "font_size": size}
    drawn = tag("text", str(escape(words)), x=x, y=y, role_=role, **fixed, **turned)
    return tag("g", tag("title", str(escape(hover))) + drawn) if hover and hover != words else drawn


def svg(key: str, height: float, title: str, description: str, body: Sequence[str]) -> str:
    """The figure as one element, named and described for those who do not see it."""
    name = tag("title", str(escape(title)), id=f"{key}-title")
    names = name + tag("desc", str(escape(description)), id=f"{key}-desc")
    return tag(
        "svg",
        names + "".join(body),
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        width=WIDTH,
        height=height,
        font_family=_FONT,
        font_size=TEXT,
    )


def tag(name: str, inner: str = "", **attributes: str | float) -> str:
    """An element; `inner` is markup already, attributes are escaped, `role_` becomes its class."""
    named = {k.rstrip("_").replace("_", "-") if k != "role_" else "class": v for k, v in attributes.items()}
    words = "".join(f' {k}="{escape(_attribute(v))}"' for k, v in named.items() if v != "")
    return f"<{name}{words}>{inner}</{name}>" if inner else f"<{name}{words}/>"


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def character() -> float:
    """Width of an average character, in units, on the wide side."""
    return TEXT * _GLYPH


def number(value: float | None) -> str:
    """A number in at most four significant digits, a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    return ("−∞" if value < 0 else "∞") if math.isinf(value) else f"{value:.4g}"


def fit(words: str, width: float, *, bold: bool = False) -> str:
    """The words, cut in the middle where they are wider than that many units."""
    room = int(width / (TEXT * (_GLYPH + (0.03 if bold else 0.0))))
    if len(words) <= room:
        return words
    head = (room - 1) * 2 // 3
    return f"{words[:head]}…{words[len(words) - (room - 1 - head) :]}"


def _step(rough: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that is not under `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def is_number(value: object) -> TypeGuard[float]:
    """Whether something is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)
