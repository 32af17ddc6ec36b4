"""A run as a table for analysis: a row per attempt and shape. docs/reference/export.md says what the columns are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import get_type_hints

import msgspec

from pytest_avo.core.stats import Interval
from pytest_avo.report.page.facts import AttemptFacts, RunFacts, ShapeFacts


class ExportRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt on one shape; what has no value is None. Ratios are above 1 where the attempt is faster."""

    run: int
    kernel: str
    operator: str
    started: str
    attempt: int
    version: str
    generation: int
    member: int
    island: int
    parent: int | None
    status: str
    reason: str
    hypothesis: str
    created: str
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    confirmed: bool
    predicted: float | None
    over_seed: float | None
    over_seed_low: float | None
    over_seed_high: float | None
    seconds: float
    tokens: int
    cost: float
    elapsed_s: float
    shape: str | None
    shape_outcome: str | None
    shape_reason: str | None
    shape_median_us: float | None
    shape_gain: float | None
    shape_gain_low: float | None
    shape_gain_high: float | None
    shape_predicted: float | None


MEANINGS = {
    "run": "number of the run in its lineage",
    "kernel": "path of the kernel's file, relative to the project's root",
    "operator": "what proposed the attempts",
    "started": "when the run began, ISO 8601 in UTC",
    "attempt": "number of the attempt in the lineage",
    "version": "its name, as `avo show` takes it",
    "generation": "0 is the seed's",
    "member": "of the population",
    "island": "that the member lives on",
    "parent": "number of the attempt that it varies; none for the seed",
    "status": "how it ended, or `under way`",
    "reason": "why it ended so, in words",
    "hypothesis": "why it was proposed",
    "created": "when it was proposed, ISO 8601 in UTC",
    "gain": "ratio to its parent over all shapes: the confirmation's estimate where there is one, else the screening's",
    "gain_low": "lower end of its 95% interval",
    "gain_high": "upper end",
    "confirmed": "whether the gain was confirmed in fresh processes",
    "predicted": "the gain over all shapes that was predicted",
    "over_seed": "ratio to the seed",
    "over_seed_low": "lower end of its interval",
    "over_seed_high": "upper end",
    "seconds": "from its proposal to its end",
    "tokens": "input and output tokens that it took",
    "cost": "what it cost, in the currency of the prices",
    "elapsed_s": "from the run's begin to the attempt's end",
    "shape": "id of the shape; none for an attempt that was not evaluated",
    "shape_outcome": "what the screening found there: ok, incorrect, crashed, ...",
    "shape_reason": "why, in words",
    "shape_median_us": "median time of a call",
    "shape_gain": "ratio to the parent there: median over the rounds",
    "shape_gain_low": "lower end of its 95% interval",
    "shape_gain_high": "upper end",
    "shape_predicted": "the gain there that was predicted",
}
"""Column -> what it holds."""
COLUMNS = tuple(MEANINGS)
TYPES = get_type_hints(ExportRow)


def rows(run: RunFacts) -> Iterator[ExportRow]:
    """The table of a run, attempts in the order in which they ended."""
    for each in run.attempts:
        for found in each.shapes or (None,):
            yield _row(run, each, found)


def as_csv(table: Iterable[ExportRow]) -> str:
    """With a head; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(msgspec.structs.astuple(each) for each in table)
    return text.getvalue()


def as_jsonl(table: Iterable[ExportRow]) -> bytes:
    """An object a line."""
    return b"".join(msgspec.json.encode(each) + b"\n" for each in table)


def as_parquet(table: Iterable[ExportRow]) -> bytes:
    """A table whose columns have the types of the rows, however few there are."""
    import pyarrow  # an extra
    import pyarrow.parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string(), bool: pyarrow.bool_()}
    named = [(name, next(kinds[kind] for kind in kinds if kind in _parts(TYPES[name]))) for name in COLUMNS]
    found = pyarrow.Table.from_pylist([msgspec.structs.asdict(each) for each in table], schema=pyarrow.schema(named))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(found, sink)
    return bytes(sink.getvalue())


def _parts(annotation: object) -> tuple[object, ...]:
    """The members of a union, or the type itself."""
    return getattr(annotation, "__args__", (annotation,))


def _row(run: RunFacts, attempt: AttemptFacts, found: ShapeFacts | None) -> ExportRow:
    gain, speed = _ends(attempt.gain), _ends(attempt.speed)
    there = _ends(found.ratio if found else None)
    return ExportRow(
        run=run.number,
        kernel=run.kernel,
        operator=run.operator,
        started=run.started,
        attempt=attempt.id,
        version=attempt.name,
        generation=attempt.generation,
        member=attempt.member,
        island=attempt.island,
        parent=attempt.parent,
        status=attempt.status,
        reason=attempt.reason,
        hypothesis=attempt.hypothesis,
        created=attempt.created,
        gain=gain[0],
        gain_low=gain[1],
        gain_high=gain[2],
        confirmed=attempt.is_confirmed,
        predicted=attempt.predicted,
        over_seed=speed[0],
        over_seed_low=speed[1],
        over_seed_high=speed[2],
        seconds=attempt.seconds,
        tokens=attempt.tokens,
        cost=attempt.cost,
        elapsed_s=attempt.elapsed_s,
        shape=found.shape if found else None,
        shape_outcome=found.outcome if found else None,
        shape_reason=found.reason if found else None,
        shape_median_us=found.median_us if found else None,
        shape_gain=there[0],
        shape_gain_low=there[1],
        shape_gain_high=there[2],
        shape_predicted=found.predicted if found else None,
    )


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
