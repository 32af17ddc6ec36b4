"""The view: what a run's readers ask of it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.stats import Interval
from pytest_avo.lineage import view as queries
from pytest_avo.lineage.database import UnreadableLineage
from pytest_avo.lineage.events import FenceMark, LessonLearnt, NoiseFloor, Spending
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Run, Status
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View, latest_run, runs
from tests import ROOT


@pytest.fixture
def view(store: Store, run: Run) -> Iterator[View]:
    with View(store.path, run.id) as view:
        yield view


class Author:
    """Adds attempts to a run, one generation after the other."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store = store
        self.run = run
        self.generation = -1

    def attempt(self, source: str, parent: Attempt | None = None) -> Attempt:
        self.generation += 1
        return self.store.add_attempt(
            run=self.run.id,
            generation=self.generation,
            member=0,
            parent=None if parent is None else parent.id,
            source=source,
            operator="test",
            hypothesis="",
            predicted={},
        )

    def ended(
        self,
        source: str,
        status: Status,
        parent: Attempt | None = None,
        *,
        gain: float | None = None,
        confirmed: float | None = None,
    ) -> Attempt:
        attempt = self.attempt(source, parent)
        outcome = AttemptOutcome(attempt.id, status, gain=_around(gain), confirmed=_around(confirmed))
        self.store.add_outcome(outcome)
        return attempt


def _around(estimate: float | None) -> Interval | None:
    return None if estimate is None else Interval(estimate, estimate - 0.01, estimate + 0.01)


@pytest.fixture
def author(store: Store, run: Run) -> Author:
    return Author(store, run)


def test_an_empty_run(view: View) -> None:
    assert view.attempts() == ()
    assert view.incumbent() is None
    assert view.counts() == {}
    assert view.trend() == []
    assert view.log_scores() == {}


def test_the_incumbent_is_the_seed_until_something_is_promoted(view: View, author: Author) -> None:
    seed = author.attempt("X = 0")
    assert view.incumbent() == seed
    author.store.add_outcome(AttemptOutcome(seed.id, "seed"))
    author.ended("X = 1", "slower", seed, gain=-0.1)
    assert view.incumbent() == seed
    first = author.ended("X = 2", "promoted", seed, gain=0.2, confirmed=0.1)
    assert view.incumbent() == first
    second = author.ended("X = 3", "promoted", first, gain=0.1, confirmed=0.05)
    author.ended("X = 4", "same", second, gain=0.0)
    assert view.incumbent() == second


def test_log_scores_add_the_confirmed_steps_of_the_parents(view: View, author: Author) -> None:
    seed = author.ended("X = 0", "seed")
    first = author.ended("X = 1", "promoted", seed, gain=0.30, confirmed=0.20)
    second = author.ended("X = 2", "promoted", first, gain=0.15, confirmed=0.10)
    third = author.ended("X = 3", "slower", second, gain=-0.05)
    sibling = author.ended("X = 4", "same", seed, gain=0.01)
    wrong = author.ended("X = 5", "incorrect", second)
    below_wrong = author.ended("X = 6", "same", wrong, gain=0.5)
    running = author.attempt("X = 7", second)
    expected = {seed.id: 0.0, first.id: 0.20, second.id: 0.30, third.id: 0.25, sibling.id: 0.01}
    assert view.log_scores() == pytest.approx(expected)
    for number, score in expected.items():
        assert view.log_score(number) == pytest.approx(score)
    for attempt in (wrong, below_wrong, running):
        assert view.log_score(attempt.id) is None


def test_a_view_sees_what_is_added_after_it_has_read(view: View, author: Author) -> None:
    seed = author.attempt("X = 0")
    assert (view.attempts(), view.outcomes()) == ((seed,), {})
    child = author.ended("X = 1", "same", seed, gain=0.01)
    assert (view.attempts(), list(view.outcomes())) == ((seed, child), [child.id])
    author.store.add_outcome(AttemptOutcome(seed.id, "seed"))
    assert list(view.outcomes()) == [child.id, seed.id]
    assert view.log_score(child.id) == 0.01


def test_a_failed_confirmation_counts_instead_of_the_screening(view: View, author: Author) -> None:
    seed = author.ended("X = 0", "seed")
    lucky = author.ended("X = 1", "same", seed, gain=0.05, confirmed=0.001)
    assert view.log_score(lucky.id) == pytest.approx(0.001)


def test_the_trend_holds_its_level_between_promotions(view: View, author: Author) -> None:
    seed = author.ended("X = 0", "seed")
    author.ended("X = 1", "crashed", seed)
    first = author.ended("X = 2", "promoted", seed, gain=0.2, confirmed=0.1)
    author.ended("X = 3", "same", first, gain=0.3)
    author.ended("X = 4", "promoted", first, gain=0.1, confirmed=0.05)
    author.attempt("X = 5", seed)
    assert view.trend() == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.15])


def test_a_source_is_found_unless_it_was_never_evaluated(view: View, author: Author) -> None:
    seed = author.ended("X = 0", "seed")
    evaluated = author.ended("X = 1", "incorrect", seed)
    author.ended("X = 1", "duplicate", seed)
    lost = author.ended("X = 2", "failed", seed)
    running = author.attempt("X = 3", seed)
    assert view.find_by_digest(evaluated.digest) == evaluated
    assert view.find_by_digest(lost.digest) is None
    assert view.find_by_digest(running.digest) == running
    assert view.find_by_digest("0" * 16) is None
    assert view.unfinished() == (running,)


def test_events_are_picked_by_kind_and_number(view: View, store: Store, run: Run) -> None:
    first, second, third = (store.add_event(run.id, fact) for fact in (LESSON, NoiseFloor(0.01), LESSON))
    assert view.all_events() == (first, second, third)
    assert view.events(LessonLearnt) == (first, third)
    assert view.events(LessonLearnt, after=first.id) == (third,)


def test_runs_do_not_mix(store: Store, run: Run, author: Author) -> None:
    author.ended("X = 0", "seed")
    other = store.start_run(
        **{
            key: getattr(run, key)
            for key in ("kernel", "target", "operator", "seed", "shapes", "fingerprint", "settings")
        }
    )
    mine = Author(store, other).ended("X = 0", "promoted")
    with View(store.path, run.id) as first, View(store.path, other.id) as second:
        assert first.counts() == {"seed": 1}
        assert second.counts() == {"promoted": 1}
        assert second.attempts() == (mine,)
        assert second.find_by_digest(mine.digest) == mine
        with pytest.raises(KeyError):
            first.attempt(mine.id)


def test_runs_are_listed_per_kernel(store: Store, run: Run) -> None:
    keys = ("target", "operator", "seed", "shapes", "fingerprint", "settings")
    other = store.start_run(kernel="kernels/other.py", **{key: getattr(run, key) for key in keys})
    assert runs(store.path) == (run, other)
    assert runs(store.path, run.kernel) == (run,)
    assert latest_run(store.path, other.kernel) is None, "it has no seed yet"
    Author(store, other).ended("X = 0", "seed")
    assert latest_run(store.path, other.kernel) == other
    assert latest_run(store.path, "kernels/absent.py") is None


def test_the_query_that_the_reference_shows(store: Store, run: Run) -> None:
    text = (ROOT / "docs/reference/lineage.md").read_text(encoding="utf-8")
    query = text.partition('.sqlite3 "')[2].partition('"')[0]
    author = Author(store, run)
    seed = author.ended("X = 0", "seed")
    author.ended("X = 1", "promoted", seed, confirmed=math.log(1.25))
    with closing(sqlite3.connect(store.path)) as lineage:
        lineage.create_function("exp", 1, math.exp)  # not every SQLite has it
        ((number, generation, ratio, _),) = lineage.execute(query)
    assert (number, generation, ratio) == (run.id, 1, 1.25)


def test_unknown_numbers_are_said(view: View, store: Store) -> None:
    with pytest.raises(InvalidInput, match="expected a run 99"):
        View(store.path, 99)
    with pytest.raises(UnreadableLineage, match="it lacks the source 0000"):
        view.source("0" * 16)
    assert view.outcome(99) is None


def test_a_view_cannot_write(view: View) -> None:
    with pytest.raises(UnreadableLineage, match="readonly"):
        view._rows("INSERT INTO source VALUES ('x', 'y')")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lineage of 10,000 attempts in two runs; filled in bulk, as one commit per record would take minutes."""
    path = tmp_path_factory.mktemp("large") / "lineage.sqlite3"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        fingerprint = '{"target":"","device":"","units":1,"driver":"","torch":"","triton":"","python":"","os":""}'
        for number in (1, 2):
            connection.execute(
                "INSERT INTO run VALUES (?, 'k.py', 'cpu', 'tuner', 0, '[]', ?, '', '{}')", (number, fingerprint)
            )
        ids = range(1, 10_001)
        connection.executemany("INSERT INTO source VALUES (?, 'x')", [(f"{n:016x}",) for n in ids])
        connection.executemany(
            "INSERT INTO attempt VALUES (?, ?, ?, 0, 0, ?, ?, 'tuner', '', '{}', '')",
            [(n, n % 2 + 1, n // 2, n - 2 if n > 2 else None, f"{n:016x}") for n in ids],
        )
        connection.executemany(
            'INSERT INTO evaluation VALUES (?, ?, \'screen\', ?, \'s\', \'{"shape":"s","outcome":"ok"}\')',
            [(n, n, f"{n:016x}") for n in ids],
        )
        connection.executemany(
            "INSERT INTO outcome VALUES (?, ?, ?, ?, '', 0.001, 0, 0.002, 0.001, 0, 0.002, NULL, NULL, NULL, NULL, '',"
            " 0, 0, 0, 1)",
            [(n, n, n % 2 + 1, "promoted" if n % 10 < 2 else "same") for n in ids],
        )
    return path


LESSON = LessonLearnt("Tiles of 64 spill.", "tiling", "spills", generation=3)
QUERIES = {
    name: query for name, query in vars(queries).items() if isinstance(query, str) and name.isupper() and "?" in query
}


def test_events_by_kind_and_after_an_id_in_the_order_they_happened(store: Store, run: Run) -> None:
    first, second, third, fourth = (
        store.add_event(run.id, fact) for fact in (LESSON, NoiseFloor(0.01), FenceMark("x"), LESSON)
    )
    with View(store.path, run.id) as view:
        assert view.all_events() == (first, second, third, fourth)
        assert view.events(LessonLearnt) == (first, fourth)
        assert view.events(FenceMark, LessonLearnt) == (first, third, fourth)
        assert view.events(LessonLearnt, after=first.id) == (fourth,)
        assert view.all_events(after=second.id) == (third, fourth)
        assert view.events(Spending) == ()


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_no_query_of_a_large_lineage_scans_a_table(large: Path, name: str) -> None:
    query = QUERIES[name]
    with closing(sqlite3.connect(large)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", [1] * query.count("?")).fetchall()
    steps = [str(step[3]) for step in plan]
    assert any("INDEX" in step or "PRIMARY KEY" in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN")], steps


def test_a_large_lineage_reads_back_whole(large: Path) -> None:
    with View(large, 1) as view:
        attempts = view.attempts()
        assert len(attempts) == 5000
        assert sum(view.counts().values()) == 5000
        assert view.log_score(attempts[-1].id) == pytest.approx(0.001 * 4999)
        assert msgspec.json.encode(view.incumbent()) == msgspec.json.encode(attempts[-1])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE event", "the lineage cannot be read: no such table: event"),
        ("UPDATE run SET settings = '{'", "run 1 of the lineage cannot be read"),
        ("""UPDATE attempt SET predicted = '{"geomean": null}'""", "attempt 1 of the lineage cannot be read"),
        ("UPDATE event SET data = '{}'", "event 1 of the lineage cannot be read"),
    ],
)
def test_what_nobody_here_has_written_is_said_and_named(store: Store, run: Run, damage: str, said: str) -> None:
    Author(store, run).ended("X = 0", "seed")
    store.add_event(run.id, NoiseFloor(0.01))
    with closing(sqlite3.connect(store.path)) as connection:
        for table in ("run", "attempt", "event"):
            connection.execute(f"DROP TRIGGER {table}_kept")
        connection.execute(damage)
        connection.commit()
    with pytest.raises(UnreadableLineage, match=said):
        read_all(store.path, run.id)


def read_all(path: Path, run: int) -> None:
    with View(path, run) as view:
        view.attempts()
        view.all_events()
