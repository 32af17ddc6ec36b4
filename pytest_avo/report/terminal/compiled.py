"""The table of a compile report: a row for every distinct launch, with the shapes it serves and its constants."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pytest_avo.evaluation.diagnosis.compile import LaunchReport, Record, ShapeError, ShapeUnknown
from pytest_avo.report import text
from pytest_avo.report.terminal.changes import changes
from pytest_avo.report.terminal.terminal import WIDTH, Line, draw

COLUMNS = (
    "row", "launched", "shapes", "registers", "spills", "shared", "warps", "wgmma", "serialised", "local", "in loops",
    "verdict",
)  # fmt: skip
DISPENSABLE = ("warps", "shapes", "local", "serialised")
"""Left out one after the other where the terminal is narrow: the lines below the table say the first two."""
LEFT = ("launched", "verdict")
FEW = 3
"""So many values of a dimension are listed; of more only the least and the greatest."""


class CompiledItem(msgspec.Struct, frozen=True):
    """What one kernel compiles to on one shape.

    before: the same of its version at a git ref, None where nothing is compared. skipped: why nothing was compiled.
    """

    node_id: str
    launches: tuple[LaunchReport, ...] = ()
    before: tuple[LaunchReport, ...] | None = None
    note: str = ""
    """Why there is nothing to compare with."""
    skipped: str = ""

    @property
    def file(self) -> str:
        return self.node_id.partition("::")[0]

    @property
    def shape_id(self) -> str:
        return self.node_id.partition("::")[2]


def tables(
    items: Sequence[CompiledItem], *, width: int = WIDTH, details: bool = False, ref: str = ""
) -> Iterator[Line]:
    """A table per kernel file, launches of the same code in one row, and what was not compiled.

    details: list the shapes of a row one by one. ref: what the kernels are compared with, as the user named it.
    """
    for file, group in _by_file(items).items():
        rows: dict[LaunchReport, list[str]] = {}
        for item in group:
            for launch in item.launches:
                same = rows.setdefault(msgspec.structs.replace(launch, shape=0, grid=None), [])
                same += [item.shape_id] if item.shape_id not in same else []
        if rows:
            yield Line("")
            yield Line(f"{file}: distinct launches {len(rows)}", {"bold": True})
            drawn = _drawn(rows, width)
            yield from (Line(line) for line in drawn)
            yield from (Line(line) for line in _described(rows, width, details, warps="warps" not in drawn[0]))
        if ref and (compared := [item for item in group if not item.skipped]):
            yield Line(f"{file} beside {ref}:")
            yield from (Line(line) for line in _compared(compared, width))
    yield from _skipped(items, width)


def as_text(node_id: str, records: Sequence[Record]) -> str:
    """The report of one kernel on one shape, to be read as text: its table, and what is wrong."""
    launches = tuple(record for record in records if isinstance(record, LaunchReport))
    lines = [line.text for line in tables([CompiledItem(node_id, launches)])]
    lines += failures(launches)
    lines += [record.error for record in records if isinstance(record, ShapeError)]
    lines += [record.reason for record in records if isinstance(record, ShapeUnknown)]
    return "\n".join(lines).strip()


def failures(launches: Sequence[LaunchReport]) -> list[str]:
    """What is wrong with the launches of a shape; of several of one name, the constants that only one has say which."""
    named = Counter(launch.kernel for launch in launches)
    found = []
    for launch in launches:
        alike = [other for other in launches if other.kernel == launch.kernel and other is not launch]
        own = [each for each in launch.constants if not all(each in other.constants for other in alike)]
        which = f"{launch.kernel}[{pairs(own)}]" if named[launch.kernel] > 1 and own else launch.kernel
        found += [f"{which}: {failure}" for failure in launch.failures if not launch.tried]
    return found


def pairs(constants: Sequence[tuple[str, str]]) -> str:
    """`BLOCK_M=128, num_stages=3`; long values, such as layouts, are cut."""
    return ", ".join(f"{name}={text.clip(text.plain(value), 40)}" for name, value in constants)


def in_short(shape_ids: Sequence[str]) -> str:
    """Shapes in one line: `b1-h16-q1024..8192-k1024..8192-d128-causal-bf16 (4 shapes)`."""
    parts = [each.split("-") for each in dict.fromkeys(shape_ids)]
    if len(parts) == 1:
        return shape_ids[0]
    if len({len(each) for each in parts}) > 1:
        few = list(dict.fromkeys(shape_ids))[:FEW]
        return ", ".join(few) + (f", … ({len(parts)} shapes)" if len(parts) > FEW else "")
    return f"{'-'.join(_values(column) for column in zip(*parts, strict=True))} ({len(parts)} shapes)"


def _values(column: Sequence[str]) -> str:
    """One dimension of several shapes: `d64|128`, `q1024..8192`, `causal|full`."""
    distinct = list(dict.fromkeys(column))
    letter = distinct[0][:1]
    numbers = [each[1:] for each in distinct if each[:1] == letter and each[1:].isdigit()]
    if len(numbers) < len(distinct):
        return "|".join(distinct) if len(distinct) <= FEW else f"{distinct[0]}|…|{distinct[-1]}"
    ordered = sorted(numbers, key=int)
    return letter + ("|".join(ordered) if len(ordered) <= FEW else f"{ordered[0]}..{ordered[-1]}")


def _by_file(items: Sequence[CompiledItem]) -> dict[str, list[CompiledItem]]:
    groups: dict[str, list[CompiledItem]] = {}
    for item in items:
        groups.setdefault(item.file, []).append(item)
    return groups


def _drawn(rows: Mapping[LaunchReport, Sequence[str]], width: int) -> list[str]:
    """The table, with as many columns as fit."""
    for dropped in range(len(DISPENSABLE) + 1):
        kept = [name for name in COLUMNS if name not in DISPENSABLE[:dropped]]
        numbered = enumerate(rows.items(), start=1)
        body = [[_cells(row, launch, len(ids))[name] for name in kept] for row, (launch, ids) in numbered]
        lines = draw(kept, body, ["left" if name in LEFT else "right" for name in kept])
        if max(map(len, lines)) <= width:
            break
    return [text.clip(line, width) for line in lines]


def _described(rows: Mapping[LaunchReport, Sequence[str]], width: int, details: bool, *, warps: bool) -> Iterator[str]:
    """Shapes and constants of the rows; their warps where the table has no column for them."""
    for row, (launch, ids) in enumerate(rows.items(), start=1):
        indent = " " * (len(str(row)) + 2)
        on = ", ".join(ids) if details else in_short(ids)
        told = [("num_warps", str(launch.num_warps))] if warps and launch.num_warps is not None else []
        constants = pairs([*launch.constants, *told])
        yield from textwrap.wrap(f"{row}  on {on}", width, subsequent_indent=indent, break_on_hyphens=False)
        yield from textwrap.wrap(constants, width, initial_indent=indent, subsequent_indent=indent)


def _compared(items: Sequence[CompiledItem], width: int) -> Iterator[str]:
    """What is other than at the ref, each change once with the shapes that it is seen on."""
    found: dict[str, list[str]] = {}
    for item in items:
        said = [item.note] if item.note else []
        if item.before is not None:
            said = [f"{name}: {what}" for name, what in changes(item.before, item.launches)]
        for each in said:
            found.setdefault(each, []).append(item.shape_id)
    same = sum(item.before is not None and not changes(item.before, item.launches) for item in items)
    for change, ids in found.items():
        line = f"  {change}, on {in_short(ids)}"
        yield from textwrap.wrap(line, width, subsequent_indent="    ", break_on_hyphens=False)
    if same:
        yield f"  the same launches on {text.counted(same, 'shape')}"


def _skipped(items: Sequence[CompiledItem], width: int) -> Iterator[Line]:
    reasons = Counter((item.file, item.skipped) for item in items if item.skipped)
    if reasons:
        yield Line("")
    for (file, reason), number in reasons.items():
        said = f"{file}: not compiled, {reason} ({text.counted(number, 'item')} skipped)"
        yield from (Line(line, {"yellow": True}) for line in textwrap.wrap(said, width, subsequent_indent="  "))


def _cells(row: int, launch: LaunchReport, shapes: int) -> dict[str, str]:
    return {
        "row": str(row),
        "launched": launch.kernel[:24],
        "shapes": str(shapes),
        "registers": str(launch.registers),
        "spills": f"{launch.spill_stores + launch.spill_loads} B",
        "shared": f"{launch.shared_bytes / 1024:.0f} KiB",
        "warps": "-" if launch.num_warps is None else str(launch.num_warps),
        "wgmma": str(launch.wgmma_count),
        "serialised": "yes" if launch.wgmma_serialized else "no",
        "local": str(launch.local_loads + launch.local_stores),
        "in loops": str(launch.hot_local),
        "verdict": "tried" if launch.tried else "fails" if launch.failures else "ok",
    }
