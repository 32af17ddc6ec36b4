"""Lineages of older versions are brought up to date in place, whichever side opens them first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.database import VERSION, _open_copy
from pytest_avo.lineage.records import AttemptOutcome, Run
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View, latest_run

COLUMNS = {
    "outcome": "attempt, run, reason, lesson, tokens_in, tokens_out, cost, seconds",
    "evaluation": "attempt, digest, shape, body",
}
VALUES = {"outcome": "99, 1, '', '', 0, 0, 0, 0", "evaluation": "1, '0', 's', '{}'"}
SCHEMA_1 = Path(__file__).with_name("schema_1.sql").read_text()


@pytest.fixture
def old(path: Path) -> Path:
    """A run with a promoted attempt, as schema version 1 had it."""
    path.parent.mkdir()
    stored = msgspec.json.encode(fingerprint(target="cpu", device="Some CPU", units=2)).decode()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA_1)
        with connection:
            connection.execute(
                "INSERT INTO run VALUES (1, 'k.py', 'cpu', 'tuner', 7, '[\"s\"]', ?, '', '{}')", (stored,)
            )
            connection.execute("INSERT INTO source VALUES ('0', 'X = 0'), ('1', 'X = 1')")
            connection.execute("INSERT INTO attempt VALUES (1, 1, 0, 0, NULL, '0', 'tuner', 'the seed', '{}', '')")
            connection.execute("INSERT INTO attempt VALUES (2, 1, 1, 0, 1, '1', 'tuner', 'X 0 -> 1', '{}', '')")
            connection.execute(
                "INSERT INTO outcome VALUES (1, 1, 1, 'seed', '', NULL, NULL, NULL, NULL, NULL, NULL, '', 0, 0, 0, 0)"
            )
            connection.execute(
                "INSERT INTO outcome VALUES (2, 2, 1, 'promoted', 'r', 0.2, 0.1, 0.3, 0.15, 0.1, 0.2, 'l', 1, 2, 3, 4)"
            )
    return path


@pytest.mark.parametrize(
    "first", [lambda path: Store.open(path).close(), lambda path: latest_run(path, "k.py")], ids=["to write", "to read"]
)
def test_version_1(old: Path, first: Callable[[Path], object]) -> None:
    first(old)
    with Store.open(old) as store, View(old, 1) as view:
        assert [attempt.island for attempt in view.attempts()] == [0, 0]
        expected = AttemptOutcome(
            2, "promoted", "r", Interval(0.2, 0.1, 0.3), Interval(0.15, 0.1, 0.2), None, None, "l", 1, 2, 3.0, 4.0
        )
        assert view.outcome(2) == expected
        child = store.add_attempt(
            run=1, generation=2, member=1, island=1, parent=1, source="X = 2", operator="o", hypothesis="", predicted={}
        )
        store.add_evaluations(child.id, "land", [])
        store.add_outcome(AttemptOutcome(child.id, "kept", over=2, landing=Interval(0.1, 0.0, 0.2)))
        assert view.attempts()[-1].island == 1
        assert view.log_score(child.id) == pytest.approx(0.15 + 0.1)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for column, value in (("status", "wonderful"), ("purpose", "fun")):
            table = {"status": "outcome", "purpose": "evaluation"}[column]
            with pytest.raises(sqlite3.IntegrityError, match=f"CHECK.*{column}"):
                connection.execute(
                    f"INSERT INTO {table} ({column}, {COLUMNS[table]}) VALUES (?, {VALUES[table]})", (value,)
                )


def test_where_nothing_can_be_written_a_copy_is_read_brought_up_to_date(old: Path) -> None:
    before = old.read_bytes()
    with closing(_open_copy(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("SELECT id, island FROM attempt").fetchall()[0] == (1, 0)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM event")
    assert old.read_bytes() == before


def test_a_copy_has_what_is_in_the_log_of_a_writer(store: Store, run: Run) -> None:
    assert store.path.with_name(f"{store.path.name}-wal").stat().st_size > 0
    with closing(_open_copy(store.path)) as connection:
        assert connection.execute("SELECT id FROM run").fetchall() == [(run.id,)]
