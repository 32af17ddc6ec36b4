"""The page of a bench: kernels beside their peers, shape by shape, from a run's results or from files of --avo-json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawsvg
import msgspec
from markupsafe import Markup

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.verdict import Comparison, OfKind
from pytest_avo.report.page.drawing import Axis, drawing, svg, titled, words
from pytest_avo.report.page.page import page

CHARACTER = 6.4
BAR = 12
PLOT = 300
"""Width of the part of a chart that has the bars."""


class BenchResult(msgspec.Struct, frozen=True):
    """One kernel on one shape, as --avo-json writes it."""

    kernel: str
    shape: str
    device: str
    verdict: str
    reason: str = ""
    median_us: float | None = None
    tflops: float | None = None
    gbps: float | None = None
    roofline_fraction: float | None = None
    peers: dict[str, Comparison] = {}


@dataclass(frozen=True, slots=True)
class BenchResults:
    """All that one run, or one file, has."""

    name: str
    results: Sequence[BenchResult]
    machine: dict[str, str]


class _Avo(msgspec.Struct, frozen=True):
    results: list[BenchResult]


class _File(msgspec.Struct, frozen=True):
    avo: _Avo
    machine_info: dict[str, Any] = {}
    datetime: str = ""


def read_bench(path: Path) -> BenchResults:
    """What --avo-json wrote; InvalidInput for another file."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"{path}: expected results that --avo-json wrote: {error}") from None
    machine = {name: str(value) for name, value in found.machine_info.items() if isinstance(value, str | int | float)}
    return BenchResults(str(path), found.avo.results, {"measured": found.datetime, **machine})


def bench_page(benches: Sequence[BenchResults]) -> str:
    """The page; of two benches or more the times of the later ones stand beside the first's."""
    groups: dict[tuple[str, str], dict[int, list[BenchResult]]] = {}
    for index, bench in enumerate(benches):
        for each in bench.results:
            groups.setdefault((each.kernel, each.device), {}).setdefault(index, []).append(each)
    return page(
        "bench.html",
        title="Kernels beside their peers",
        benches=benches,
        groups=[
            {
                "kernel": kernel,
                "device": device,
                "results": [(benches[index], results) for index, results in found.items()],
                "peers": list(
                    dict.fromkeys(name for results in found.values() for each in results for name in each.peers)
                ),
                "speed": Markup(_ratios(next(iter(found.values())))),
                "kinds": [
                    (bench.name, kinds_of(results))
                    for bench, results in ((benches[index], results) for index, results in found.items())
                ],
                "throughput": Markup(_throughput(next(iter(found.values())))),
                "changes": _changes(found),
            }
            for (kernel, device), found in groups.items()
        ],
    )


@dataclass(frozen=True, slots=True)
class KindRow:
    """A kernel beside one peer on one shape, by kind of inputs."""

    shape: str
    peer: str
    ratios: list[OfKind | None]
    """In the order of the kinds of inputs; None where it was not timed on one."""
    differ: bool
    """Whether two of their intervals do not meet."""


def kinds_of(results: Sequence[BenchResult]) -> tuple[list[str], list[KindRow]]:
    """The kinds of inputs that occur, and a row for each shape and peer that was timed on them."""
    beside = [(each.shape, name, found) for each in results for name, found in each.peers.items() if found.kinds]
    kinds = list(dict.fromkeys(kind for _, _, found in beside for kind in found.kinds))
    rows = []
    for shape, peer, found in beside:
        rows.append(KindRow(shape, peer, [found.kinds.get(kind) for kind in kinds], found.kinds_differ))
    return kinds, rows


def _changes(found: dict[int, list[BenchResult]]) -> list[tuple[str, float, float, float]]:
    """Shape, both medians in us, and first / second: above 1 the second is faster. Where two benches have it."""
    if len(found) < 2:
        return []
    first, second = list(found.values())[:2]
    later = {each.shape: each.median_us for each in second}
    pairs = [(each.shape, each.median_us, later.get(each.shape)) for each in first]
    return [(shape, old, new, old / new) for shape, old, new in pairs if old and new]


def _ratios(results: Sequence[BenchResult]) -> str:
    """A bar per shape and peer from 1x, with its interval."""
    bars = [(each.shape, name, beside) for each in results for name, beside in each.peers.items()]
    if not bars:
        return ""
    ends = [1.0, *(end for _, _, beside in bars for end in beside.ci95)]
    names = list(dict.fromkeys(name for _, name, _ in bars))
    left = _left(results)
    across = Axis.over(ends, left, left + PLOT, margin=0.05)
    shapes = [each for each in results if each.peers]
    height = sum(len(each.peers) * BAR + 10 for each in shapes) + 34
    chart = drawing("Speed beside each peer by shape, as a ratio", width=left + PLOT + 60, height=height)
    y = 4.0
    for each in shapes:
        chart.append(words(each.shape, left - 6, y + len(each.peers) * BAR / 2 + 4, anchor="end", name="tick mono"))
        for name, beside in each.peers.items():
            low, high = (across(end) for end in beside.ci95)
            start, end = sorted((across(1.0), across(beside.ratio)))
            bar = drawsvg.Rectangle(start, y + 1, max(end - start, 1), BAR - 3, class_=f"bar r{names.index(name) % 6}")
            said = f"{each.shape}: {beside.ratio:.3f}x of {name}'s speed [{beside.ci95[0]:.3f}, {beside.ci95[1]:.3f}]"
            chart.append(titled(bar, said))
            chart.append(drawsvg.Line(low, y + BAR / 2 - 0.5, high, y + BAR / 2 - 0.5, class_="whisker"))
            chart.append(words(f"{beside.ratio:.2f}x", max(high, end) + 5, y + BAR - 2, name="tick"))
            y += BAR
        y += 10
    chart.append(drawsvg.Line(across(1.0), 0, across(1.0), y, class_="axis"))
    for value in across.ticks():
        chart.append(words(f"{value:g}x", across(value), y + 16, anchor="middle", name="tick"))
    return svg(chart)


def _throughput(results: Sequence[BenchResult]) -> str:
    """A bar per shape: the share of what the device was measured to reach at best."""
    known = [each for each in results if each.roofline_fraction]
    if not known:
        return ""
    left = _left(results)
    across = Axis(0.0, max(1.0, *(each.roofline_fraction or 0.0 for each in known)), left, left + PLOT)
    height = len(known) * 20 + 30
    chart = drawing("Share of the roofline by shape", width=left + PLOT + 60, height=height)
    for index, each in enumerate(known):
        y, share = index * 20 + 2, each.roofline_fraction or 0.0
        chart.append(words(each.shape, left - 6, y + 12, anchor="end", name="tick mono"))
        bar = drawsvg.Rectangle(left, y, across(share) - left, 14, class_="bar r2")
        chart.append(titled(bar, f"{each.shape}: {share:.0%} of the roofline, {each.tflops or 0:.4g} TFLOP/s"))
        chart.append(words(f"{share:.0%}", across(share) + 5, y + 12, name="tick"))
    chart.append(drawsvg.Line(across(1.0), 0, across(1.0), height - 26, class_="axis"))
    chart.append(words("roofline", across(1.0), height - 10, anchor="middle", name="tick"))
    return svg(chart)


def _left(results: Sequence[BenchResult]) -> float:
    return 12 + CHARACTER * max(len(each.shape) for each in results)
