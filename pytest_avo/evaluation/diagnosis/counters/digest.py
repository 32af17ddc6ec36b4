"""What a reader needs of a launch's counters: some thirty lines, beside those of another kernel's longest launch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from pytest_avo.evaluation.diagnosis.counters.call import TracedLaunch
from pytest_avo.evaluation.diagnosis.counters.measured import NOT_STALLED, MeasuredLaunch

DURATION = "gpu__time_duration.sum"
PIPES_SHOWN, STALLS_SHOWN, LINES_SHOWN, LINES_BESIDE = 3, 4, 5, 2
_PIPE = re.compile(r"sm__(?:inst_executed_)?pipe_(\w+?)(?:_cycles_active)?\.avg\.pct_of_peak_sustained_active")
_STALL = re.compile(r"smsp__average_warps?_(?:latency_)?issue_stalled_(\w+?)(?:_per_issue_active)?\.ratio")
LIMITS = {
    "launch__occupancy_limit_registers": "registers",
    "launch__occupancy_limit_shared_mem": "shared memory",
    "launch__occupancy_limit_warps": "warps",
    "launch__occupancy_limit_blocks": "blocks",
    "launch__occupancy_limit_barriers": "barriers",
}
WIDTH, COLUMN = 36, 30
SM_REGISTERS, SM_SHARED_BYTES, SM_WARPS, SM_BLOCKS = 65_536, 228 << 10, 64, 32

Cell = Callable[[MeasuredLaunch], str]


def longest(launches: Sequence[MeasuredLaunch]) -> MeasuredLaunch:
    """The launch that takes most of a call."""
    return max(launches, key=lambda launch: launch.get(DURATION) or 0.0)


def digest(draft: Sequence[MeasuredLaunch], beside: Sequence[MeasuredLaunch], *, label: str) -> str:
    """The longest launch of a draft's call beside that of another kernel, called `label`; () where there is none."""
    first, second = longest(draft), longest(beside) if beside else None
    named = [("draft", first), *([(label, second)] if second else [])]
    heads = [f"{name}: {launch.name}"[: COLUMN - 2] for name, launch in named]
    lines = [_line("", heads)]
    lines += [_line(name, [cell(launch) for launch in (first, second) if launch]) for name, cell in ROWS]
    lines.append("stalls, of the cycles that a warp waits to issue again:")
    lines += list(_stalls(first, second))
    lines.append("SASS lines at which the draft's warps were found waiting, share of all samples:")
    lines += list(_hot(first, LINES_SHOWN))
    if second:
        lines.append(f"and those of {label}:")
        lines += list(_hot(second, LINES_BESIDE))
    if len(draft) > 1:
        others = ", ".join(f"{launch.name[:40]} {_us(launch)}" for launch in draft if launch is not first)
        lines.append(f"the draft's other launches of the call: {others}")
    return "\n".join(lines)


def traced(draft: Sequence[TracedLaunch], beside: Sequence[TracedLaunch], *, label: str) -> str:
    """The launches of a call as they are without counters, beside those of another kernel."""
    lines = [f"{'launch':<44}{'time':>12}  {'grid':>16}  {'block':>12}  registers  shared  occupancy, limited by"]
    for name, launches in (("draft", draft), (label, beside)):
        lines += [f"{name}:", *(_launch_line(launch) for launch in launches)] if launches else []
    return "\n".join(lines)


def _launch_line(launch: TracedLaunch) -> str:
    grid, block = ("x".join(map(str, sizes)) for sizes in (launch.grid, launch.block))
    share, limits = occupancy(launch)
    return (
        f"  {launch.name[:42]:<42}{launch.us:>9,.1f} us  {grid:>16}  {block:>12}  {launch.registers:>9}  "
        f"{launch.shared_bytes / 1024:>2.0f} KiB  {share:>8.1%}  {', '.join(limits)}"
    )


def occupancy(launch: TracedLaunch) -> tuple[float, list[str]]:
    """Share of a multiprocessor's warps that a launch can have at a time, and what limits it, on a Hopper GPU.

    By the CUDA Programming Guide's table of compute capability 9.0: registers are given out 256 at a time to a warp,
    and 1 KiB of shared memory a block is the system's.
    """
    warps = -(-math.prod(launch.block) // 32)
    registers = -(-launch.registers * 32 // 256) * 256 * warps
    blocks = {
        "registers": SM_REGISTERS // max(1, registers),
        "shared memory": SM_SHARED_BYTES // (launch.shared_bytes + 1024),
        "warps": SM_WARPS // max(1, warps),
        "blocks": SM_BLOCKS,
    }
    least = min(blocks.values())
    return least * warps / SM_WARPS, [name for name, count in blocks.items() if count == least]


# ---- the table


def _line(name: str, cells: Sequence[str]) -> str:
    return (f"{name:<{WIDTH}}" + "".join(f"{cell:<{COLUMN}}" for cell in cells)).rstrip()


def _us(launch: MeasuredLaunch) -> str:
    nanoseconds = launch.get(DURATION)
    return "?" if nanoseconds is None else f"{nanoseconds / 1e3:,.1f} us"


def _percent(*names: str) -> Cell:
    def cell(launch: MeasuredLaunch) -> str:
        value = launch.get(*names)
        return "?" if value is None else f"{value:.1f}%"

    return cell


def _clock(launch: MeasuredLaunch) -> str:
    hertz = launch.get("gpc__cycles_elapsed.avg.per_second", "smsp__cycles_elapsed.avg.per_second")
    return "?" if hertz is None else f"{hertz / 1e9:.2f} GHz"


def pipes(launch: MeasuredLaunch) -> list[tuple[str, float]]:
    """The pipelines of a multiprocessor by how full they were while it was active, the fullest first, in per cent."""
    found: dict[str, float] = {}
    for name, value in launch.metrics.items():
        if matched := _PIPE.fullmatch(name):
            found[matched[1]] = max(value, found.get(matched[1], 0.0))
    return sorted(found.items(), key=lambda pair: -pair[1])


def _tensor(launch: MeasuredLaunch) -> str:
    values = [value for name, value in pipes(launch) if name.startswith("tensor")]
    return f"{max(values):.1f}%" if values else "?"


def _pipes(launch: MeasuredLaunch) -> str:
    shown = [f"{name} {value:.0f}%" for name, value in pipes(launch) if not name.startswith(("tensor", "shared"))]
    return ", ".join(shown[:PIPES_SHOWN]) or "?"


def _dram(launch: MeasuredLaunch) -> str:
    share = _percent(
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", "dram__throughput.avg.pct_of_peak_sustained_elapsed"
    )(launch)
    rate = launch.get("dram__bytes.sum.per_second")
    return share if rate is None else f"{share} ({rate / 1e12:.2f} TB/s)"


def _with_hits(share: Cell, hits: str) -> Cell:
    def cell(launch: MeasuredLaunch) -> str:
        rate = launch.get(hits)
        return share(launch) + ("" if rate is None else f" (hits {rate:.0f}%)")

    return cell


def _occupancy(launch: MeasuredLaunch) -> str:
    achieved = launch.get("sm__warps_active.avg.pct_of_peak_sustained_active")
    possible = launch.get("sm__maximum_warps_per_active_cycle_pct")
    if achieved is None or possible is None:
        return "?"
    return f"{achieved:.1f}% of {possible:.1f}%"


def _limiter(launch: MeasuredLaunch) -> str:
    limits = {name: launch.get(metric) for metric, name in LIMITS.items()}
    known = {name: blocks for name, blocks in limits.items() if blocks}
    if not known:
        return "?"
    least = min(known.values())
    names = [name for name, blocks in known.items() if blocks == least]
    return f"{', '.join(names)} ({least:.0f})"


def _resources(launch: MeasuredLaunch) -> str:
    registers, shared = launch.get("launch__registers_per_thread"), launch.get("launch__shared_mem_per_block")
    return f"{registers or 0:.0f}, {(shared or 0) / 1024:.0f} KiB"


def _size(launch: MeasuredLaunch) -> str:
    grid, block, waves = (
        launch.get(f"launch__{name}") for name in ("grid_size", "block_size", "waves_per_multiprocessor")
    )
    return f"{grid or 0:,.0f} x {block or 0:.0f}" + ("" if waves is None else f", {waves:.1f} waves")


def _warps(launch: MeasuredLaunch) -> str:
    active = launch.get("smsp__warps_active.avg.per_cycle_active")
    eligible = launch.get("smsp__warps_eligible.avg.per_cycle_active")
    issuing = launch.get("smsp__issue_active.avg.pct_of_peak_sustained_active", "smsp__issue_active.avg.pct")
    if active is None or eligible is None or issuing is None:
        return "?"
    return f"{active:.2f}, {eligible:.2f} ({issuing:.0f}% of cycles)"


def _spilled(launch: MeasuredLaunch) -> str:
    requests = launch.get("derived__local_spilling_requests")
    return "?" if requests is None else f"{requests:,.0f}"


ROWS: tuple[tuple[str, Cell], ...] = (
    ("duration", _us),
    ("clock of the multiprocessors", _clock),
    ("compute, of its peak", _percent("sm__throughput.avg.pct_of_peak_sustained_elapsed")),
    ("tensor pipe", _tensor),
    ("other pipes", _pipes),
    ("DRAM", _dram),
    ("L2", _with_hits(_percent("lts__throughput.avg.pct_of_peak_sustained_elapsed"), "lts__t_sector_hit_rate.pct")),
    (
        "L1 and shared memory",
        _with_hits(_percent("l1tex__throughput.avg.pct_of_peak_sustained_active"), "l1tex__t_sector_hit_rate.pct"),
    ),
    ("grid x threads", _size),
    ("registers a thread, shared a block", _resources),
    ("requests to spilled registers", _spilled),
    ("occupancy, of what is possible", _occupancy),
    ("blocks a multiprocessor limited by", _limiter),
    ("warps active, ready (one issues in)", _warps),
)


# ---- stalls


def stalls(launch: MeasuredLaunch) -> dict[str, float]:
    """Reason -> cycles that a warp waited for it between two instructions, on average."""
    found = {}
    for name, value in launch.metrics.items():
        if (matched := _STALL.fullmatch(name)) and not math.isnan(value):
            found[matched[1]] = value
    return found


def _stalls(first: MeasuredLaunch, second: MeasuredLaunch | None) -> Iterator[str]:
    of_first = stalls(first)
    of_second = stalls(second) if second else {}
    reasons = [reason for reason in of_first if reason not in NOT_STALLED]
    for reason in sorted(reasons, key=lambda name: -of_first[name])[:STALLS_SHOWN]:
        cells = [_stall(of_first, reason), *([_stall(of_second, reason)] if second else [])]
        yield _line(f"  {reason}", cells)


def _stall(cycles: dict[str, float], reason: str) -> str:
    total = sum(cycles.values())
    return f"{cycles.get(reason, 0.0) / total:.0%} ({cycles.get(reason, 0.0):.1f} cycles)" if total else "?"


def _hot(launch: MeasuredLaunch, count: int) -> Iterator[str]:
    for each in launch.instructions[:count]:
        reasons = ", ".join(f"{reason} {share:.0%}" for reason, share in each.reasons[:2] if share >= 0.01)
        yield f"  {each.share:>6.1%}  {each.place}  {each.text[:70]:<70}  {reasons}".rstrip()
