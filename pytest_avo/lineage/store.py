"""The writing side of a lineage: every record is on disk when the call that adds it returns."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.source import source_digest, without_provenance
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.database import open_to_write
from pytest_avo.lineage.events import Event, Fact, encoded, kind_of
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Purpose, Run

StoredFact = TypeVar("StoredFact", bound=Fact)


class Store:
    """An open lineage. One process writes (the controller), from any of its threads; others read through a View.

    Every method is one transaction. What the schema forbids (a second outcome of an attempt, a second screening of a
    shape, an attempt of an unknown run) raises sqlite3.IntegrityError and leaves nothing behind. OSError where the
    file was removed meanwhile.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._file = _identity(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the lineage at `path`, creating it where there is none; InvalidInput when it cannot be."""
        return cls(path, open_to_write(path))

    def close(self) -> None:
        """Close the file; the store is unusable afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(
        self,
        *,
        kernel: str,
        target: str,
        operator: str,
        seed: int,
        shapes: Sequence[str],
        fingerprint: Fingerprint,
        settings: Mapping[str, str],
    ) -> Run:
        """Begin a run of `kernel` (path relative to the rootdir) over the shapes with these ids."""
        run = Run(0, kernel, target, operator, seed, tuple(shapes), fingerprint, _now(), dict(settings))
        with self._transaction() as cursor:
            return msgspec.structs.replace(run, id=_insert(cursor, "run", _columns(run)))

    def add_attempt(
        self,
        *,
        run: int,
        generation: int,
        member: int,
        island: int = 0,
        parent: int | None,
        source: str,
        operator: str,
        hypothesis: str,
        predicted: Mapping[str, float],
    ) -> Attempt:
        """Record a candidate together with its source text."""
        digest = source_digest(source)
        attempt = Attempt(
            0, run, generation, member, island, parent, digest, operator, hypothesis, dict(predicted), _now()
        )
        with self._transaction() as cursor:
            _keep(cursor, digest, source)
            return msgspec.structs.replace(attempt, id=_insert(cursor, "attempt", _columns(attempt)))

    def add_evaluations(
        self, attempt: int, purpose: Purpose, evaluations: Sequence[Evaluation], *, source: str | None = None
    ) -> None:
        """Record evaluations of an attempt, all or none of them. `source` is the draft's text, for a draft."""
        if (source is None) is (purpose == "draft"):
            raise ValueError(f"a draft comes with its source and nothing else does, got purpose {purpose!r}")
        with self._transaction() as cursor:
            if source is None:
                row = cursor.execute("SELECT digest FROM attempt WHERE id = ?", (attempt,)).fetchone()
                digest = row[0] if row else None
            else:
                digest = source_digest(source)
                _keep(cursor, digest, source)
            cursor.executemany(
                "INSERT INTO evaluation (attempt, purpose, digest, shape, body) VALUES (?, ?, ?, ?, ?)",
                [(attempt, purpose, digest, one.shape, msgspec.json.encode(one).decode()) for one in evaluations],
            )

    def add_outcome(self, outcome: AttemptOutcome) -> None:
        """Record how an attempt ended; after this it is finished and never evaluated again."""
        with self._transaction() as cursor:
            run = cursor.execute("SELECT run FROM attempt WHERE id = ?", (outcome.attempt,)).fetchone()
            columns = (
                msgspec.structs.asdict(outcome)
                | _spread("gain", outcome.gain)
                | _spread("confirmed", outcome.confirmed)
                | _spread("landing", outcome.landing)
            )
            _insert(cursor, "outcome", columns | {"run": run[0] if run else None})

    def add_event(self, run: int, fact: StoredFact) -> Event[StoredFact]:
        """Record a fact of a run, stamped with the present time."""
        time = _now()
        with self._transaction() as cursor:
            columns = {"run": run, "time": time, "kind": kind_of(type(fact)), "data": encoded(fact)}
            return Event(_insert(cursor, "event", columns), run, time, fact)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock:
            if _identity(self.path) != self._file:
                # SQLite would go on writing into a file that has no name any more.
                raise OSError(f"{self.path}: was removed or replaced while a run writes to it, by `git clean`, say")
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _columns(record: Run | Attempt) -> dict[str, object]:
    """A record's fields as SQLite takes them, containers as JSON; the id is the database's to give."""
    fields = msgspec.structs.asdict(record)
    del fields["id"]
    return {
        name: value if value is None or isinstance(value, (int, float, str)) else msgspec.json.encode(value).decode()
        for name, value in fields.items()
    }


def _spread(name: str, interval: Interval | None) -> dict[str, object]:
    ends = (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _keep(cursor: sqlite3.Cursor, digest: str, source: str) -> None:
    cursor.execute("INSERT OR IGNORE INTO source (digest, text) VALUES (?, ?)", (digest, without_provenance(source)))


def _insert(cursor: sqlite3.Cursor, table: str, columns: Mapping[str, object]) -> int:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values()))
    assert cursor.lastrowid is not None
    return cursor.lastrowid
