"""Plots as inline SVG: lines over steps, and scores with their intervals.

The colours are variables of the page's style, so a plot follows the light or dark theme. Equal data give
equal bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tempa.report.page import Markup, join, number, tag

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 34
# More points than this cannot be told apart at the width of the plot.
MAX_POINTS = 400

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One score: a value and its interval.

    Attributes:
        label: Whose score it is.
        value: The score.
        low: Lower end of its interval.
        high: Upper end.
        note: Shown after the number.
        color: One of the page's colours; the place among the bars when None.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    color: int | None = None


def line_plot(
    series: Mapping[str, Points], *, x_label: str, y_label: str, levels: Mapping[str, float] | None = None
) -> Markup:
    """Lines with a legend.

    Args:
        series: Name to (x, y) points in order of x; points that are not finite are left out.
        x_label: Under the axis.
        y_label: Above the axis.
        levels: Horizontal reference lines, name to y.
    """
    levels = {name: y for name, y in (levels or {}).items() if math.isfinite(y)}
    lines = {
        name: _thin([p for p in points if all(map(math.isfinite, p))]) for name, points in series.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return tag("p", f"no {y_label} recorded", class_="note")
    xs = [x for points in lines.values() for x, _ in points]
    ys = [*(y for points in lines.values() for _, y in points), *levels.values()]
    x_scale = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_scale = _Scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_scale, y_scale, x_label)]
    for index, points in enumerate(lines.values()):
        color = f"var(--c{index % 6})"
        place = [(x_scale(x), y_scale(y)) for x, y in points]
        if len(place) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in place)
            parts.append(tag("path", d=path, fill="none", stroke=color, stroke_width="2"))
        if len(place) <= 40:
            parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", fill=color) for x, y in place]
    for index, y in enumerate(levels.values(), start=len(lines)):
        height = f"{y_scale(y):.1f}"
        color = f"var(--c{index % 6})"
        parts.append(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height, stroke=color, stroke_dasharray="5 4")
        )
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=y_label)
    names = [*lines, *levels]
    keys = [
        tag("span", tag("i", style=f"background:var(--c{index % 6})"), name, class_="key")
        for index, name in enumerate(names)
    ]
    return tag("figure", tag("figcaption", tag("b", y_label), *keys), drawing)


def bar_plot(bars: Sequence[Bar], *, title: str, unit: str = "", top: float | None = None) -> Markup:
    """Horizontal bars with whiskers, one row each; laid out by the page so that it fits a phone.

    Args:
        bars: In order.
        title: What is measured.
        unit: "%" shows shares as percentages.
        top: Right end of the scale; the largest value by default.
    """
    scale = top or max(max(bar.value, bar.high or 0.0) for bar in bars) or 1.0
    percent = 100.0 if unit == "%" else 1.0

    def place(value: float) -> str:
        return f"{100 * min(max(value / scale, 0.0), 1.0):.2f}%"

    rows = []
    for index, bar in enumerate(bars):
        shown = f"{number(percent * bar.value, 3)}{unit}"
        whisker = Markup("")
        if bar.low is not None and bar.high is not None:
            shown += f" [{number(percent * bar.low, 3)}, {number(percent * bar.high, 3)}]"
            width = f"{100 * min((bar.high - bar.low) / scale, 1.0):.2f}%"
            whisker = tag("s", style=f"left:{place(bar.low)};width:{width}")
        color = (index if bar.color is None else bar.color) % 6
        fill = tag("i", style=f"width:{place(bar.value)};background:var(--c{color})")
        rows.append(
            tag(
                "div",
                tag("span", bar.label, class_="name"),
                tag("span", fill, whisker, class_="track"),
                tag("span", shown, " ", tag("small", bar.note) if bar.note else "", class_="value"),
                class_="bar",
            )
        )
    return tag("figure", tag("figcaption", tag("b", title)), *rows)


class _Scale:
    """Values to coordinates, with round ticks."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        if high <= low:
            pad = abs(low) / 2 or 0.5
            low, high = low - pad, high + pad
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, count: int) -> list[float]:
        raw = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _axes(x_scale: _Scale, y_scale: _Scale, x_label: str) -> Markup:
    parts = []
    for value in y_scale.ticks(5):
        y = f"{y_scale(value):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", number(value), x=LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for value in x_scale.ticks(6):
        x = f"{x_scale(value):.1f}"
        parts.append(tag("text", number(value), x=x, y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    parts.append(tag("text", x_label, x=WIDTH - RIGHT, y=HEIGHT - 3, text_anchor="end"))
    return join(parts)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points: means of equal stretches."""
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    stretches = [points[a:b] for a, b in itertools.pairwise(edges)]
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in stretches]
