"""Charts as SVG: what all of them share. Colours are classes of the page's style sheet, so they follow its theme.

drawsvg escapes text and titles, not attributes: attributes are numbers and words of this package alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import drawsvg

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 40


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to places in the drawing."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, margin: float = 0.0) -> Axis:
        """An axis that shows all values, and a little more."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = (high - low) * margin or (0.0 if high > low else max(abs(high) * 0.05, 0.05))
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, number: int = 5, *, least_step: float = 0.0) -> list[float]:
        """Round values along the axis, at least `least_step` apart."""
        step = max((self.high - self.low) / number, least_step)
        power = 10.0 ** math.floor(math.log10(step))
        step = next((power * each for each in (1, 2, 5) if power * each >= step), power * 10)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 10) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def drawing(label: str, *, width: float = WIDTH, height: float = HEIGHT) -> drawsvg.Drawing:
    """An empty chart; `label`, a text of this package, says to a screen reader what it shows."""
    return drawsvg.Drawing(width, height, **{"role": "img", "aria-label": label, "class": "chart"})


def svg(chart: drawsvg.Drawing) -> str:
    """The chart as an element of a page."""
    return str(chart.as_svg(header=""))


def words(text: str, x: float, y: float, *, anchor: str = "start", name: str = "note") -> drawsvg.Text:
    """A text; its size comes from the style sheet."""
    return drawsvg.Text(text, 12, x, y, text_anchor=anchor, class_=name)


def titled(element: drawsvg.DrawingElement, title: str) -> drawsvg.DrawingElement:
    """An element that says more where the pointer rests on it."""
    element.append_title(title)
    return element


def frame(
    chart: drawsvg.Drawing,
    across: Axis,
    up: Axis,
    *,
    name: str,
    spelled: Callable[[float], str] = "{:g}".format,
    ratio: Callable[[float], str] = "{:g}x".format,
) -> None:
    """Axes with ticks, and what runs across."""
    for value in up.ticks():
        y = up(value)
        chart.append(drawsvg.Line(LEFT, y, across.end, y, class_="grid"))
        chart.append(words(ratio(value), LEFT - 6, y + 4, anchor="end", name="tick"))
    for value in across.ticks():
        chart.append(words(spelled(value), across(value), up.start + 17, anchor="middle", name="tick"))
    chart.append(drawsvg.Line(LEFT, up.start, across.end, up.start, class_="axis"))
    chart.append(words(name, (LEFT + across.end) / 2, up.start + 34, anchor="middle", name="tick"))


def mark(status: str, x: float, y: float) -> drawsvg.DrawingElement:
    """A mark that tells statuses apart by its form too, not by colour alone."""
    name = f"mark s-{status.replace(' ', '-')}"
    if status in ("promoted", "seed"):
        return drawsvg.Circle(x, y, 5, class_=name)
    if status == "kept":
        return drawsvg.Circle(x, y, 4, class_=f"{name} hollow")
    if status in ("same", "ambiguous"):
        return drawsvg.Rectangle(x - 3, y - 3, 6, 6, class_=name)
    if status == "slower":
        return drawsvg.Lines(x - 4, y - 3, x + 4, y - 3, x, y + 4, close=True, class_=name)
    if status in ("duplicate", "under way"):
        return drawsvg.Circle(x, y, 3, class_=f"{name} hollow")
    return drawsvg.Path(class_=f"{name} cross").M(x - 3.5, y - 3.5).l(7, 7).m(-7, 0).l(7, -7)
