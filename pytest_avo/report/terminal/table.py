"""The table of one kernel as cells of text: which columns, in which words. Terminal and Markdown draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pytest_avo.core.verdict import Comparison, Verdict
from pytest_avo.report import text
from pytest_avo.report.rows import ResultRow, arms, best_peer, comparisons

LEAST_TFLOPS = 0.1
"""A kernel that is slower on every shape is told in GFLOP/s."""
LEAST_GBPS = 0.1
"""Below this, throughput is given in MB/s."""
MUCH = 0.1
"""Share of a call's time from which on it is shown what the call costs beside."""
DECODE_QUERIES = 16
"""Up to so many query rows a shape is bound by memory and shown in GB/s: a tile of them fills no matrix unit."""


@dataclass(frozen=True, slots=True)
class TableLayout:
    """What a table shows besides shape, median, throughput and verdict."""

    peers: tuple[str, ...]
    intervals: bool = True
    roofline: bool = True
    best: bool = True
    """Which of several peers is the fastest on each shape."""
    calls: bool = True
    """What eager calls take of the host, where that is much."""
    kinds: bool = True
    """What was timed beside it on the kind of inputs where the kernel stands worst, where kinds differ."""
    whole_shapes: bool = True
    """False: parts of the shape's id that all rows share stand in the caption instead."""
    details: bool = False
    """Rounds and seed too."""


@dataclass(frozen=True, slots=True)
class Column:
    """A header and one cell per row; `align` is left or right."""

    header: str
    cells: tuple[str, ...]
    align: str = "right"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length, and what is true of all rows."""

    columns: tuple[Column, ...]
    caption: str = ""

    @property
    def headers(self) -> list[str]:
        return [column.header for column in self.columns]

    @property
    def body(self) -> list[tuple[str, ...]]:
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def aligns(self) -> list[str]:
        return [column.align for column in self.columns]


def table(rows: Sequence[ResultRow], layout: TableLayout) -> Table:
    """The table of `rows` (at least one), in their order."""
    names, shared = _shape_names([row.shape.id for row in rows], whole=layout.whole_shapes)
    columns = [Column("shape", names, "left")]
    if any(row.verdict.median_us is not None for row in rows):
        columns += [_median(rows), _throughput(rows)]
        columns += _roofline(rows) if layout.roofline else []
        columns += [_peer(rows, peer, layout) for peer in layout.peers]
        columns += _best(rows) if layout.best else []
        columns += _calls(rows, layout) if layout.calls else []
        columns += _kinds(rows, layout) if layout.kinds else []
    columns.append(Column("verdict", tuple(row.verdict.kind for row in rows), "left"))
    if layout.details:
        columns.append(Column("rounds", tuple(str(len(row.samples_s) or text.ABSENT) for row in rows)))
        columns.append(Column("seed", tuple(str(row.seed) for row in rows)))
    return Table(tuple(columns), f"every shape: {shared}" if shared else "")


def layouts(rows: Sequence[ResultRow], *, details: bool = False) -> list[TableLayout]:
    """Layouts from the fullest to the narrowest.

    Intervals go first, then the share of the roofline and the name of the best peer, then shared parts of shapes, then
    what calls cost the host, then kinds of inputs, then peers.
    """
    peers = arms(rows)
    plain = TableLayout(peers, intervals=False, roofline=False, best=False, details=details)
    short = replace(plain, whole_shapes=False)
    bare = replace(short, calls=False)
    return [
        TableLayout(peers, details=details),
        TableLayout(peers, intervals=False, details=details),
        plain,
        short,
        bare,
        *(replace(bare, kinds=False, peers=peers[:count]) for count in range(len(peers), -1, -1)),
    ]


def _shape_names(ids: Sequence[str], *, whole: bool) -> tuple[tuple[str, ...], str]:
    """Names of the rows' shapes, and the parts that all of them share when those are left out."""
    split = [name.split("-") for name in ids]
    shared = [part for part in split[0] if all(part in parts for parts in split)]
    if whole or len(set(ids)) == 1:
        return tuple(ids), ""
    names = tuple("-".join(part for part in parts if part not in shared) or text.ABSENT for parts in split)
    return names, "-".join(shared)


def _median(rows: Sequence[ResultRow]) -> Column:
    medians = [row.verdict.median_us for row in rows]
    # One unit per table: the one that suits the middle of the medians on a log scale.
    middle = fmean(math.log(value) for value in medians if value)
    unit, factor = ("ms", 1e-3) if middle >= math.log(1e3) else ("us", 1.0)
    cells = tuple(text.significant(None if x is None else x * factor, digits=4) for x in medians)
    return Column(f"median {unit}", cells)


def _throughput(rows: Sequence[ResultRow]) -> Column:
    by_memory = [row.shape.seqlen_q <= DECODE_QUERIES for row in rows]
    tflops = max(
        (row.verdict.tflops or 0.0 for row, memory in zip(rows, by_memory, strict=True) if not memory), default=0.0
    )
    gbps = max((row.verdict.gbps or 0.0 for row, memory in zip(rows, by_memory, strict=True) if memory), default=0.0)
    flops, flops_factor = ("TFLOP/s", 1.0) if tflops >= LEAST_TFLOPS else ("GFLOP/s", 1e3)
    bytes_, bytes_factor = ("GB/s", 1.0) if gbps >= LEAST_GBPS else ("MB/s", 1e3)
    units = [bytes_ if memory else flops for memory in by_memory]
    figures = [
        text.significant(_times(row.verdict.gbps, bytes_factor) if memory else _times(row.verdict.tflops, flops_factor))
        for row, memory in zip(rows, by_memory, strict=True)
    ]
    if len(set(units)) == 1:
        return Column(units[0], tuple(figures))
    mixed = zip(figures, units, strict=True)
    return Column("throughput", tuple(x if x == text.ABSENT else f"{x} {unit}" for x, unit in mixed))


def _roofline(rows: Sequence[ResultRow]) -> list[Column]:
    """How much of what the device can do at best is reached; no column where that is not known."""
    shares = [row.roofline_fraction for row in rows]
    if all(share is None for share in shares):
        return []
    return [Column("roofline", tuple(map(_share, shares)))]


def _share(share: float | None) -> str:
    if share is None:
        return text.ABSENT
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _peer(rows: Sequence[ResultRow], name: str, layout: TableLayout) -> Column:
    cells = []
    for row in rows:
        beside = comparisons(row).get(name)
        if beside is None:
            cells.append(text.ABSENT)
        else:
            cells.append(text.ratio(beside.ratio, beside.ci95, bounds=layout.intervals))
    return Column(f"vs {name}" if layout.intervals else name, tuple(cells))


def _best(rows: Sequence[ResultRow]) -> list[Column]:
    """The fastest peer of each row; no column where no row has several."""
    found = [best_peer(row) for row in rows]
    return [Column("best peer", tuple(name or text.ABSENT for name in found), "left")] if any(found) else []


def _calls(rows: Sequence[ResultRow], layout: TableLayout) -> list[Column]:
    """What an eager call takes beside the device's time: of the host alone, and from rest until its result is there.

    Of the kernel and what was timed beside it, each where that is more than MUCH of its own time.
    """
    columns = []
    for header, found in (("host us", _host_us), ("from rest us", _idle_us)):
        cells = []
        for row in rows:
            timed = {"": row.verdict} | {name: x for name, x in comparisons(row).items() if name in layout.peers}
            figures = {name: found(each, row.target) for name, each in timed.items()}
            cells.append(", ".join(f"{name} {text.significant(x)}".strip() for name, x in figures.items() if x))
        if any(cells):
            columns.append(Column(header, tuple(cell or text.ABSENT for cell in cells), "left"))
    return columns


def _host_us(timed: Verdict | Comparison, target: str) -> float | None:
    """The host's part of a call; None where it is little, and on a CPU, where it is all of the call."""
    if target == "cpu" or not timed.host_us or not timed.median_us:
        return None
    return timed.host_us if timed.host_us > MUCH * timed.median_us else None


def _idle_us(timed: Verdict | Comparison, target: str) -> float | None:
    """A single call from rest; None where it takes little more than one among others."""
    if not timed.idle_us or not timed.median_us:
        return None
    return timed.idle_us if timed.idle_us > (1 + MUCH) * timed.median_us else None


def _kinds(rows: Sequence[ResultRow], layout: TableLayout) -> list[Column]:
    """For each of what was timed beside it where kinds of inputs differ beyond the noise, the worst of them."""
    cells = []
    for row in rows:
        differing = [(name, x) for name, x in comparisons(row).items() if name in layout.peers and x.kinds_differ]
        cells.append(", ".join(f"{name} {_worst(beside)}" for name, beside in differing))
    return [Column("worst inputs", tuple(cell or text.ABSENT for cell in cells), "left")] if any(cells) else []


def _worst(beside: Comparison) -> str:
    kind, found = min(beside.kinds.items(), key=lambda each: each[1].ratio)
    return f"{text.ratio(found.ratio, found.ci95, bounds=False)} {kind}"
