"""An evolution on the terminal: attempts, commits, what was rejected, the best so far and where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_avo.core.stats import Interval
from pytest_avo.report import text
from pytest_avo.report.terminal.terminal import LEAST_WAIT_S, WIDTH, Line, draw

BLOCKS = "▁▂▃▄▅▆▇█"
COMMITS = frozenset({"seed", "promoted"})
NEGATIVE = frozenset({"incorrect", "crashed", "timeout", "rejected", "unsupported", "failed"})
MAX_ROWS = 20
LAST_ROWS = 5
HYPOTHESIS = "hypothesis"
COLUMNS = ("gen", "status", "gain", "confirmed", "best", "evals", "time")
DISPENSABLE = ("evals", "time")
"""Left out on a narrow terminal."""
MOST_LINES = 3
"""Lines of a hypothesis that are shown; the lineage has all of it."""
LEAST_ROOM = 24
GAP = "  "
BELOW = " " * 5


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of an evolution; generation 0 is the seed."""

    generation: int
    member: int
    status: str
    hypothesis: str
    gain: Interval | None
    """Log-ratio against the parent, from screening."""
    confirmed: Interval | None
    """Log-ratio against the parent, from the confirmation alone."""
    score: float
    """Speed of the best kernel so far as a ratio to the seed's: 1.0 until the first commit."""
    seconds: float
    evaluations: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What an evolution came to."""

    kernel: str
    attempts: int
    commits: int
    rejected: dict[str, int]
    """Attempts that were not committed, by status."""
    best_ratio: Interval | None
    """Time of the seed / time of the best kernel; None where the run did not come to compare them."""
    wall_s: float
    build_s: float
    """What the evaluator took to start, load and first call kernels, compilation included."""
    check_s: float
    time_s: float
    evaluations: int
    """Shapes that the seed, candidates and drafts were tried on, and are in the lineage."""
    of_seed: int = 0
    waited_s: float = 0.0
    """Seconds that devices were waited for, in addition to what the evaluator took."""
    passed: tuple[str, ...] = ()
    """When the kernel in the file passed each peer."""
    by_steps: bool = False
    """The best kernel's ratio is multiplied up from its steps: the run ended before it was measured."""
    resume_hint: str = ""
    """Command line that continues the run; empty when it is complete."""


def lineage(attempts: Sequence[AttemptRow], summary: Summary, *, width: int = WIDTH) -> list[Line]:
    """Table, sparkline and totals of an evolution; no line is longer than `width`, but a command is never broken."""
    lines: list[Line] = []
    if attempts:
        shown = visible(attempts)
        lines += _table(shown, width)
        if hidden := len(attempts) - len(shown):
            lines.append(Line(f"{text.counted(hidden, 'more row')} in the lineage"))
        lines += [Line(""), _best_so_far(attempts, width)]
    return lines + _totals(summary, width)


def visible(attempts: Sequence[AttemptRow]) -> list[AttemptRow]:
    """All attempts up to MAX_ROWS; of more the last LAST_ROWS and, in the rows left, the newest commits before them."""
    if len(attempts) <= MAX_ROWS:
        return list(attempts)
    earlier = [row for row in attempts[:-LAST_ROWS] if row.status in COMMITS]
    return [*earlier[-(MAX_ROWS - LAST_ROWS) :], *attempts[-LAST_ROWS:]]


def sparkline(values: Sequence[float], width: int) -> str:
    """One block per value from the lowest to the highest; of more than `width` values the last of each equal share."""
    if len(values) > width:
        values = [values[(index + 1) * len(values) // width - 1] for index in range(width)]
    low, high = min(values), max(values)
    step = (high - low) / (len(BLOCKS) - 1)
    return "".join(BLOCKS[round((value - low) / step) if step else 0] for value in values)


def _table(rows: Sequence[AttemptRow], width: int) -> list[Line]:
    for headers in (COLUMNS, [name for name in COLUMNS if name not in DISPENSABLE]):
        body = [[cells[name] for name in headers] for cells in _cells(rows)]
        first, rule, *drawn = draw(headers, body, ["left" if name == "status" else "right" for name in headers])
        if len(rule) <= width:
            break
    # The hypothesis gets the columns that the others leave, or lines of its own below where those are few.
    beside = len(rule) + len(GAP)
    room = width - beside
    said = [text.plain(row.hypothesis) for row in rows]
    if room < LEAST_ROOM:
        lines = [Line(first), Line(rule)]
        for row, line, hypothesis in zip(rows, drawn, said, strict=True):
            below = text.wrapped(hypothesis, width - len(BELOW), most=MOST_LINES) if hypothesis else []
            lines += [Line(each, _markup(row)) for each in (line, *(BELOW + each for each in below))]
        return lines
    columns = [text.wrapped(hypothesis or text.ABSENT, room, most=MOST_LINES) for hypothesis in said]
    widest = max(len(HYPOTHESIS), *(text.columns(each) for column in columns for each in column))
    lines = [Line(f"{first.ljust(beside)}{HYPOTHESIS}"), Line(f"{rule}{GAP}{'-' * widest}")]
    for row, line, column in zip(rows, drawn, columns, strict=True):
        starts = [line, *([""] * (len(column) - 1))]
        lines += [Line(start.ljust(beside) + each, _markup(row)) for start, each in zip(starts, column, strict=True)]
    return lines


def _cells(rows: Sequence[AttemptRow]) -> Iterator[dict[str, str]]:
    members = any(row.member for row in rows)
    for row in rows:
        yield {
            "gen": f"{row.generation}.{row.member}" if members else str(row.generation),
            "status": text.plain(row.status),
            "gain": text.percent(row.gain.estimate) if row.gain else text.ABSENT,
            "confirmed": _change(row.confirmed) if row.confirmed else text.ABSENT,
            "best": text.ratio(row.score),
            "evals": str(row.evaluations),
            "time": text.duration(row.seconds) if row.seconds else text.ABSENT,
        }


def _change(confirmed: Interval) -> str:
    """`+4.1% [+3.2%, +5.0%]`."""
    return f"{text.percent(confirmed.estimate)} [{text.percent(confirmed.low)}, {text.percent(confirmed.high)}]"


def _best_so_far(attempts: Sequence[AttemptRow], width: int) -> Line:
    scores = [row.score for row in attempts]
    before, after = f"best so far  {text.ratio(scores[0])} ", f" {text.ratio(scores[-1])}"
    return Line(before + sparkline(scores, max(1, min(60, width - len(before) - len(after)))) + after)


def _totals(summary: Summary, width: int) -> list[Line]:
    best = summary.best_ratio
    colour = {"bold": True, "green": True} if summary.commits else {"bold": True}
    if best:
        how = ", by its steps" * summary.by_steps
        gain = f"best {text.ratio(best.estimate, (best.low, best.high))} vs the seed{how}"
    elif summary.commits:
        gain = "the best was not compared with the seed"
    else:
        gain = "no gain over the seed"
    head = [text.counted(summary.attempts, "attempt"), text.counted(summary.commits, "commit"), gain]
    lines = [Line(line, colour) for line in text.fold(f"{text.plain(summary.kernel)}:", head, width)]
    if summary.rejected:
        counts = [f"{count} {text.plain(kind)}" for kind, count in summary.rejected.items()]
        lines += [Line(line) for line in text.fold("not committed:", counts, width)]
    evaluator_s = summary.build_s + summary.check_s + summary.time_s
    if summary.passed:
        lines += [Line(line) for line in text.fold("passed:", list(summary.passed), width)]
    share = f" ({evaluator_s / summary.wall_s:.0%})" if summary.wall_s else ""
    of_seed = f" ({summary.of_seed} of the seed)" if summary.of_seed else ""
    spent = [text.duration(summary.wall_s), text.counted(summary.evaluations, "evaluation") + of_seed]
    lines += [Line(line) for line in text.fold("took:", spent, width)]
    parts = {"build": summary.build_s, "check": summary.check_s, "timing": summary.time_s}
    shares = [f"{name} {text.duration(seconds)}" for name, seconds in parts.items()]
    if evaluator_s:
        lines += [Line(line) for line in text.fold("evaluator:", [text.duration(evaluator_s) + share, *shares], width)]
    if summary.waited_s >= LEAST_WAIT_S:
        lines.append(Line(f"waited: {text.duration(summary.waited_s)} for the device, which other runs had"))
    if summary.resume_hint:
        lines.append(Line(f"resume with: {text.plain(summary.resume_hint)}"))
    return lines


def _markup(row: AttemptRow) -> dict[str, bool]:
    if row.status == "promoted":
        return {"green": True}
    return {"red": True} if row.status in NEGATIVE else {}
