"""What attempts were predicted to gain beside what they gained."""

from __future__ import annotations

import drawsvg

from pytest_avo.report.page.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    drawing,
    frame,
    mark,
    svg,
    titled,
)
from pytest_avo.report.page.facts import RunFacts


def calibration(run: RunFacts) -> str:
    """A mark per attempt with a prediction and a measurement; "" where there is none."""
    found = [(each, each.predicted, each.gain) for each in run.attempts if each.predicted and each.gain]
    if not found:
        return ""
    chart = drawing("Predicted gain across, measured gain up; on the diagonal a prediction was right")
    values = [1.0, *(predicted for _, predicted, _ in found), *(gain.estimate for _, _, gain in found)]
    across = Axis.over(values, LEFT, WIDTH - RIGHT, margin=0.06)
    up = Axis(across.low, across.high, HEIGHT - BOTTOM, TOP)
    frame(chart, across, up, name="predicted over its parent", spelled="{:g}x".format)
    chart.append(
        drawsvg.Line(across.start, up.start, across.end, up.end, class_="diagonal"),
    )
    for each, predicted, gain in found:
        x = across(predicted)
        chart.append(drawsvg.Line(x, up(max(gain.low, up.low)), x, up(min(gain.high, up.high)), class_="whisker"))
        said = f"{each.name}: predicted {predicted:.3f}x, measured {gain.estimate:.3f}x, {each.status}"
        chart.append(titled(mark(each.status, x, up(gain.estimate)), said))
    return svg(chart)
