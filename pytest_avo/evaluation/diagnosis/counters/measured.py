"""What ncu counted, read from the CSV of its pages `raw` (a row a launch) and `source` (a row an instruction)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SAMPLES = "Warp Stall Sampling (All Samples)"
NOT_STALLED = ("selected", "not_selected")
"""Reasons for which a sampled warp was not stalled: it issued, or another one did."""
STALLED = "stall_"
REASONS = {
    "long_sb": "long_scoreboard", "short_sb": "short_scoreboard", "math": "math_pipe_throttle", "mio": "mio_throttle",
    "lg": "lg_throttle", "tex": "tex_throttle", "dispatch": "dispatch_stall", "no_inst": "no_instruction",
    "imc": "imc_miss", "sleep": "sleeping",
}  # fmt: skip
"""The names of the page `source` that are not those of the page `raw`."""


@dataclass(frozen=True, slots=True)
class HotInstruction:
    """One instruction of a launch at which warps were found stalled: share of all samples, and for which reasons."""

    place: str
    """Its offset in the function, as 0x1a30."""
    text: str
    share: float
    reasons: tuple[tuple[str, float], ...]
    """The largest first, shares of this instruction's samples."""


@dataclass(frozen=True, slots=True)
class MeasuredLaunch:
    """One launch: its metrics by ncu's names, in base units, and its instructions, the most stalled first."""

    name: str
    grid: str
    block: str
    metrics: Mapping[str, float]
    instructions: tuple[HotInstruction, ...] = field(default=())

    def get(self, *names: str) -> float | None:
        """The first of these metrics that there is: their names differ from version to version."""
        return next((self.metrics[name] for name in names if name in self.metrics), None)


def measured(raw: str, source: str) -> list[MeasuredLaunch]:
    """The launches of a report in their order; [] where the pages hold none."""
    listings = list(_listings(source))
    found = []
    for number, row in enumerate(_rows(raw)):
        metrics = {name: value for name, text in row.items() if (value := _number(text)) is not None}
        instructions = listings[number] if number < len(listings) else ()
        found.append(
            MeasuredLaunch(
                name=row.get("Kernel Name", ""), grid=row.get("Grid Size", ""), block=row.get("Block Size", ""),
                metrics=metrics, instructions=instructions,
            )
        )  # fmt: skip
    return found


def _rows(raw: str) -> Iterable[dict[str, str]]:
    """Rows of the page `raw`: what ncu prints before the header is skipped, and the units after it."""
    lines = raw.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[first:]))))
    return [row for row in rows if row.get("ID", "").isdecimal()]


def _listings(source: str) -> Iterable[tuple[HotInstruction, ...]]:
    """A listing for each launch: a row with its name, a header, a row for each instruction."""
    header: list[str] | None = None
    rows: list[dict[str, str]] = []
    begun = False
    for cells in csv.reader(io.StringIO(source)):
        if cells and cells[0] == "Kernel Name":
            if begun:
                yield _listing(rows)
            header, rows, begun = None, [], True
        elif "Source" in cells and SAMPLES in cells:
            header = cells
        elif header is not None and len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
    if begun:
        yield _listing(rows)


def _listing(rows: list[dict[str, str]]) -> tuple[HotInstruction, ...]:
    total = sum(_number(row.get(SAMPLES, "")) or 0.0 for row in rows)
    addresses = [_address(row.get("Address", "")) for row in rows]
    first = min((address for address in addresses if address is not None), default=0)
    found = []
    for row, address in zip(rows, addresses, strict=True):
        samples = _number(row.get(SAMPLES, "")) or 0.0
        if not samples or not total:
            continue
        place = f"0x{address - first:04x}" if address is not None else row.get("#", "")
        text = " ".join(row["Source"].split())
        found.append(HotInstruction(place, text, samples / total, tuple(_reasons(row, samples))))
    return tuple(sorted(found, key=lambda each: -each.share))


def _reasons(row: dict[str, str], samples: float) -> Iterable[tuple[str, float]]:
    shares = []
    for column, text in row.items():
        reason = column.removeprefix(STALLED)
        if column.startswith(STALLED) and " " not in column and reason not in NOT_STALLED and (n := _number(text)):
            shares.append((REASONS.get(reason, reason), n / samples))
    return sorted(shares, key=lambda pair: -pair[1])


def _address(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None
