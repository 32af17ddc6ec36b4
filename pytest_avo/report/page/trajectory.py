"""The best kernel so far over generations, evaluations, time and cost, one line a run, and all that was rejected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    words,
)
from pytest_avo.report.page.facts import UNDER_WAY, AttemptFacts, RunFacts

STRIP = 26
"""Height of the strip for attempts that have no speed."""
MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class Across:
    """What a trajectory runs over."""

    name: str
    of: Callable[[AttemptFacts], float]
    least_step: float = 1.0


GENERATIONS = Across("generations", lambda each: each.generation)
EVALUATIONS = Across("evaluations (one kernel on one shape)", lambda each: each.evaluations)
MINUTES = Across("minutes since the run began", lambda each: each.elapsed_s / 60, 0.0)
TOKENS = Across("tokens", lambda each: each.total_tokens)
COST = Across("cost, in the currency of the prices", lambda each: each.total_cost, 0.0)


def trajectories(runs: Sequence[RunFacts], titles: Sequence[str]) -> list[tuple[str, str]]:
    """The charts that have something to show, by what they run over: without a model there are no tokens and no cost.

    titles: what each run is called.
    """
    ended = [each for run in runs for each in run.attempts if each.status != UNDER_WAY]
    shown = [GENERATIONS, EVALUATIONS, MINUTES]
    shown += [across for across in (TOKENS, COST) if any(across.of(each) for each in ended)]
    return [(across.name, trajectory(runs, across, titles)) for across in shown]


def _is_on(run: RunFacts, over: Across) -> bool:
    """Whether a run has anything of what the chart runs over: one without a model has no tokens."""
    return over not in (TOKENS, COST) or any(over.of(each) for each in run.attempts)


def trajectory(runs: Sequence[RunFacts], over: Across, titles: Sequence[str]) -> str:
    """One chart."""
    ended = [each for run in runs for each in run.attempts if each.status != UNDER_WAY]
    chart = drawing(f"Speed as a ratio to the seed, best so far, over {over.name}")
    kept = [each.speed for each in ended if each.speed and each.is_kept]
    speeds = [each.speed.estimate for each in ended if each.speed]
    heights = [1.0, *speeds, *(each.low for each in kept), *(each.high for each in kept)]
    across = Axis.over([0.0, *map(over.of, ended)], LEFT, WIDTH - RIGHT)
    up = Axis.over(heights, HEIGHT - BOTTOM - STRIP, TOP, margin=0.06)
    frame(chart, across, Axis(up.low, up.high, up.start, up.end), name="", spelled=_nothing)
    _floor(chart, across, over)
    for index, run in enumerate(runs):
        if not _is_on(run, over):
            continue
        _best(chart, run, over, across, up, index=index)
    for run, title in zip(runs, titles, strict=True):
        if not _is_on(run, over):
            continue
        for each in run.attempts:
            if each.status != UNDER_WAY:
                y = up(each.speed.estimate) if each.speed else HEIGHT - BOTTOM - STRIP / 2
                prefix = f"{title}, " if len(runs) > 1 else ""
                chart.append(titled(mark(each.status, across(over.of(each)), y), prefix + _said(each)))
        _labels(chart, run.promoted, over, across, up)
    return svg(chart)


def _nothing(value: float) -> str:
    return ""


def _floor(chart: drawsvg.Drawing, across: Axis, over: Across) -> None:
    """The strip for attempts without a speed, and the axis below it."""
    y = HEIGHT - BOTTOM
    chart.append(words("no speed", LEFT - 6, y - STRIP / 2 + 4, anchor="end", name="tick"))
    chart.append(drawsvg.Line(LEFT, y, across.end, y, class_="axis"))
    for value in across.ticks(least_step=over.least_step):
        chart.append(words(f"{value:,g}", across(value), y + 16, anchor="middle", name="tick"))
    chart.append(words(over.name, (LEFT + across.end) / 2, y + 33, anchor="middle", name="tick"))


def _best(chart: drawsvg.Drawing, run: RunFacts, over: Across, across: Axis, up: Axis, *, index: int) -> None:
    """The line of the best so far as steps, and its interval as a band."""
    ended = [each for each in run.attempts if each.status != UNDER_WAY]
    steps, best = [], 0.0
    for each in ended:
        if each.speed and each.status in ("seed", "promoted") and each.speed.estimate > best:
            best = each.speed.estimate
            steps.append((across(over.of(each)), each.speed))
    if not steps:
        return
    end = across(max(map(over.of, ended)))
    stops = [*(x for x, _ in steps), end]
    band, line = drawsvg.Path(class_=f"band r{index % 6}"), drawsvg.Path(class_=f"best r{index % 6}")
    for (x, speed), (_, until) in zip(steps, pairwise(stops), strict=True):
        band.M(x, up(speed.low)).H(until).V(up(speed.high)).H(x).Z()
        (line.L if x != steps[0][0] or line.args.get("d") else line.M)(x, up(speed.estimate)).H(until)
    chart.append(band)
    chart.append(line)


def _labels(chart: drawsvg.Drawing, promoted: Sequence[AttemptFacts], over: Across, across: Axis, up: Axis) -> None:
    """Names beside the promotions, as many as have room; the list below the charts has them all."""
    taken = -100.0
    for each in promoted[-MOST_LABELS:]:
        x = across(over.of(each))
        if each.speed and x - taken > 42:
            anchor = "end" if x > WIDTH - 60 else "start"
            chart.append(words(each.name, x - 6 if anchor == "end" else x + 3, up(each.speed.high) - 4, anchor=anchor))
            taken = x


def _said(each: AttemptFacts) -> str:
    speed = f", {each.speed.estimate:.3f}x the seed" if each.speed else ""
    why = f". {each.hypothesis[:200]}" if each.status == "promoted" else ""
    return f"{each.name}: {each.status}{speed}{why}"
