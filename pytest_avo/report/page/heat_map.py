"""Shapes by attempts: how much faster or slower each attempt was than its parent, shape by shape."""

from __future__ import annotations

import math

import drawsvg

from pytest_avo.report.page.drawing import drawing, svg, titled, words
from pytest_avo.report.page.facts import RunFacts, ShapeFacts

ROW = 18
STEPS = (0.01, 0.03, 0.08, 0.2)
"""Bounds of the log-ratio between shades, on both sides."""
MOST_WIDTH = 2000
CHARACTER = 6.4


def heat_map(run: RunFacts) -> str:
    """A row per shape, a column per attempt in the order in which they ended."""
    shown = [each for each in run.attempts if each.shapes and each.parent is not None]
    left = 8 + CHARACTER * max((len(shape) for shape in run.shapes), default=0)
    cell = max(4.0, min(26.0, MOST_WIDTH / max(len(shown), 1)))
    width, height = max(left + 300, left + cell * len(shown) + 8), ROW * len(run.shapes) + 26
    chart = drawing(
        "Heat map: attempts across, shapes down, shade by speed beside the parent", width=width, height=height
    )
    rows = {shape: index for index, shape in enumerate(run.shapes)}
    for shape, index in rows.items():
        chart.append(words(shape, left - 6, ROW * index + 13, anchor="end", name="tick mono"))
    gap = 1 if cell > 6 else 0
    for column, each in enumerate(shown):
        for found in each.shapes:
            if found.shape in rows:
                x, y = round(left + column * cell, 1), ROW * rows[found.shape]
                box = drawsvg.Rectangle(x, y, round(cell - gap, 1), ROW - 1, class_=f"heat {shade(found)}")
                chart.append(titled(box, f"{each.name}, {found.shape}: {_said(found)}"))
    chart.append(words("attempts, in the order in which they ended", left, height - 6, name="tick"))
    return svg(chart)


def shade(found: ShapeFacts) -> str:
    """The class of a cell: f1 to f4 faster, d1 to d4 slower, even, bad where it was not right."""
    if found.outcome != "ok":
        return "bad"
    if found.ratio is None:
        return "untimed"
    gain = math.log(found.ratio.estimate)
    level = sum(abs(gain) > bound for bound in STEPS)
    return "even" if not level else f"{'f' if gain > 0 else 'd'}{level}"


def _said(found: ShapeFacts) -> str:
    if found.outcome != "ok":
        return found.outcome
    return "not timed" if found.ratio is None else f"{found.ratio.estimate:.3f}x"
