"""Who descends from whom: an island a band, its kept attempts on the trunk, the others below, transfers dashed."""

from __future__ import annotations

import drawsvg

from pytest_avo.report.page.drawing import Axis, drawing, mark, svg, titled, words
from pytest_avo.report.page.facts import RunFacts

ROW = 20
LEFT = 60
WIDEST, NARROWEST = 44, 7
MOST_WIDTH = 2400


def tree(run: RunFacts) -> str:
    """The lineage of a run, from its seed to the right."""
    last = max((each.generation for each in run.attempts), default=0)
    step = max(NARROWEST, min(WIDEST, MOST_WIDTH / (last + 1)))
    members = max((each.member for each in run.attempts), default=0) + 1
    islands = max((each.island for each in run.attempts), default=0) + 1
    rows = 1 + -(-members // islands)
    height = islands * rows * ROW + 44
    width = max(480, LEFT + (last + 1) * step + 20)
    chart = drawing("Lineage: which attempt descends from which", width=width, height=height)
    seats: dict[tuple[int, int, bool], int] = {}
    places: dict[int, tuple[float, float]] = {}
    for each in sorted(run.attempts, key=lambda each: each.id):
        taken = seats.get((each.island, each.generation, each.is_kept), 0)
        seats[each.island, each.generation, each.is_kept] = taken + 1
        row = each.island * rows + (0 if each.is_kept else 1 + min(taken, rows - 2))
        aside = taken * 5 if each.is_kept else max(0, taken - rows + 2) * 4
        places[each.id] = (round(LEFT + each.generation * step + aside, 1), ROW + row * ROW)
    _edges(chart, run, places)
    for each in run.attempts:
        x, y = places[each.id]
        chart.append(titled(mark(each.status, x, y), f"{each.name}: {each.status}. {each.hypothesis[:80]}"))
    for island in range(islands):
        label = f"island {island}" if islands > 1 else "kept"
        chart.append(words(label, 4, ROW + island * rows * ROW + 4, name="tick"))
    across = Axis(0, max(last, 1), LEFT, LEFT + max(last, 1) * step)
    for value in across.ticks(max(2, int(width / 110)), least_step=1):
        chart.append(words(f"{value:g}", across(value), height - 22, anchor="middle", name="tick"))
    chart.append(words("generations", LEFT, height - 6, name="tick"))
    return svg(chart)


def _edges(chart: drawsvg.Drawing, run: RunFacts, places: dict[int, tuple[float, float]]) -> None:
    """One path for all edges of a kind, which keeps the page small."""
    islands = {each.id: each.island for each in run.attempts}
    kinds = {name: drawsvg.Path(class_=f"edge {name}") for name in ("rejected-edge", "kept-edge", "transfer")}
    used = set()
    for each in run.attempts:
        if each.parent in places:
            name = "kept-edge" if each.is_kept else "rejected-edge"
            if islands[each.parent] != each.island:
                name = "transfer"
            (x, y), (to_x, to_y) = places[each.parent], places[each.id]
            bend = min(to_x - x, 24) / 2
            kinds[name].M(x, y).L(round(to_x - 2 * bend, 1), y)
            kinds[name].C(round(to_x - bend, 1), y, round(to_x - bend, 1), to_y, to_x, to_y)
            used.add(name)
    for name, path in kinds.items():
        if name in used:
            chart.append(path)
