"""The table of a compile report: a row for every distinct launch, with the shapes it serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from pytest_avo.evaluation.diagnosis.compile import LaunchReport, Record, ShapeError, ShapeUnknown
from pytest_avo.report.terminal.terminal import Line, draw

HEADERS = (
    "launched", "shapes", "registers", "spills", "shared", "warps", "wgmma", "serialised", "local", "in loops",
    "verdict",
)  # fmt: skip
ALIGNS = ("left", *["right"] * 9, "left")


@dataclass(frozen=True, slots=True)
class CompiledRow:
    """One launch of one item."""

    node_id: str
    launch: LaunchReport


def tables(rows: Sequence[CompiledRow]) -> Iterator[Line]:
    """A table per kernel file; launches that compile to the same code share a row."""
    files = list(dict.fromkeys(row.node_id.partition("::")[0] for row in rows))
    for file in files:
        shared: dict[LaunchReport, int] = {}
        for row in rows:
            if row.node_id.startswith(f"{file}::"):
                code = msgspec.structs.replace(row.launch, shape=0, grid=None)
                shared[code] = shared.get(code, 0) + 1
        yield Line("")
        yield Line(f"{file}: distinct launches {len(shared)}", {"bold": True})
        body = [_cells(launch, number) for launch, number in shared.items()]
        yield from (Line(line) for line in draw(HEADERS, body, ALIGNS))


def as_text(node_id: str, records: Sequence[Record]) -> str:
    """The report of one kernel on one shape, to be read as text: its table, and what is wrong."""
    launches = [record for record in records if isinstance(record, LaunchReport)]
    lines = [line.text for line in tables([CompiledRow(node_id, launch) for launch in launches])]
    lines += [f"{launch.kernel}: {failure}" for launch in launches for failure in launch.failures]
    lines += [record.error for record in records if isinstance(record, ShapeError)]
    lines += [record.reason for record in records if isinstance(record, ShapeUnknown)]
    return "\n".join(lines).strip()


def _cells(launch: LaunchReport, shapes: int) -> list[str]:
    return [
        launch.kernel[:24],
        str(shapes),
        str(launch.registers),
        f"{launch.spill_stores + launch.spill_loads} B",
        f"{launch.shared_bytes / 1024:.0f} KiB",
        "-" if launch.num_warps is None else str(launch.num_warps),
        str(launch.wgmma_count),
        "yes" if launch.wgmma_serialized else "no",
        str(launch.local_loads + launch.local_stores),
        str(launch.hot_local),
        "fails" if launch.failures else "ok",
    ]
