"""The table of an A/A run: how far a kernel was measured from itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_avo.core import stats
from pytest_avo.report import text
from pytest_avo.report.terminal.terminal import Line, draw

HEADERS = ("kernel and shape", "launches", "rounds", "ratio to itself", "noise")
ALIGNS = ("left", "right", "right", "right", "right")


class NoiseRow(msgspec.Struct, frozen=True):
    """One comparison of a kernel with itself: log-ratios per launch and round."""

    node_id: str
    launches: list[list[float]]


def table(rows: Sequence[NoiseRow]) -> Iterator[Line]:
    """A row per comparison; noise is half of the 95% interval."""
    if rows:
        yield from (Line(line) for line in draw(HEADERS, [_cells(row) for row in rows], ALIGNS))


def _cells(row: NoiseRow) -> list[str]:
    found = stats.interval(row.launches)
    ratio = found.exp()
    return [
        text.plain(row.node_id),
        str(len(row.launches)),
        str(sum(map(len, row.launches))),
        text.ratio(ratio.estimate, (ratio.low, ratio.high)),
        f"{found.half_width:.2%}",
    ]
