"""The store: durable, append-only, whole transactions only."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Evaluation, Timing
from pytest_avo.core.source import source_digest
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.database import VERSION
from pytest_avo.lineage.events import NoiseFloor, Note
from pytest_avo.lineage.records import AttemptOutcome, Run
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View, latest_run

TABLES = ("run", "source", "attempt", "evaluation", "outcome", "event")
BATCH = 7


def add_seed(store: Store, run: Run, source: str = "SEED = 1\n") -> int:
    return store.add_attempt(
        run=run.id,
        generation=0,
        member=0,
        parent=None,
        source=source,
        operator="seed",
        hypothesis="as it stands",
        predicted={},
    ).id


def evaluation(shape: str = "b1-h8-q256-k256-d64-full-f32") -> Evaluation:
    return Evaluation(shape, "ok", seed=3, timing=Timing({"kernel": ((1e-3, 2e-3),)}, calls=4, stopped="precise"))


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_the_folder_is_created_and_ignored_by_git(path: Path) -> None:
    Store.open(path).close()
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_a_folder_that_is_not_ours_gets_no_gitignore(tmp_path: Path) -> None:
    Store.open(tmp_path / "elsewhere" / "lineage.sqlite3").close()
    assert {p.name for p in (tmp_path / "elsewhere").iterdir()} == {"lineage.sqlite3", "lineage.sqlite3.lock"}


def test_every_record_reads_back_as_written(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    child = store.add_attempt(
        run=run.id,
        generation=1,
        member=0,
        parent=seed,
        source="SEED = 2\n",
        operator="tuner",
        hypothesis="SEED 1 -> 2",
        predicted={"geomean": 1.04},
    )
    store.add_evaluations(child.id, "screen", [evaluation("one"), evaluation("two")])
    outcome = AttemptOutcome(
        child.id,
        "promoted",
        reason="3.1% faster",
        gain=Interval(0.04, 0.03, 0.05),
        confirmed=Interval(0.1 + 0.2, -1e-300, float("inf")),
        lesson="larger is faster",
        tokens_in=5,
        tokens_out=6,
        cost=0.25,
        seconds=9.5,
    )
    store.add_outcome(outcome)
    event = store.add_event(run.id, Note("resumed", {"after": child.id, "why": ["a", None, 1.5]}))
    with View(store.path, run.id) as view:
        assert view.run == run
        assert view.attempts() == (view.attempt(seed), child)
        assert [(x.digest, x.evaluation) for x in view.evaluations(child.id, "screen")] == [
            (child.digest, evaluation("one")),
            (child.digest, evaluation("two")),
        ]
        assert view.outcome(child.id) == outcome
        assert view.all_events() == (event,)


def test_a_source_is_kept_once_and_without_provenance(store: Store, run: Run) -> None:
    first, second = add_seed(store, run, "X = 1\n"), add_seed(store, run, "# avo: promoted by run 1\nX = 1\n")
    with View(store.path, run.id) as view:
        digests = {view.attempt(first).digest, view.attempt(second).digest}
        assert digests == {source_digest("X = 1\n")}
        assert view.source(digests.pop()) == "X = 1\n"
    assert rows(store.path, "source") == 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["UPDATE {} SET rowid = rowid", "DELETE FROM {}"])
def test_nothing_can_be_changed_or_deleted(store: Store, run: Run, table: str, statement: str) -> None:
    seed = add_seed(store, run)
    store.add_evaluations(seed, "screen", [evaluation()])
    store.add_outcome(AttemptOutcome(seed, "seed"))
    store.add_event(run.id, NoiseFloor(0.01))
    if table == "source":
        statement = statement.replace("rowid", "text")
    with closing(sqlite3.connect(store.path)) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement.format(table))
    assert rows(store.path, table) == 1


def test_a_shape_is_screened_once_and_a_refused_batch_leaves_nothing(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    store.add_evaluations(seed, "screen", [evaluation("one")])
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.add_evaluations(seed, "screen", [evaluation("two"), evaluation("one")])
    store.add_evaluations(seed, "confirm", [evaluation("one")])
    with View(store.path, run.id) as view:
        assert [x.evaluation.shape for x in view.evaluations(seed, "screen")] == ["one"]
        assert [x.evaluation.shape for x in view.evaluations(seed, "confirm")] == ["one"]


def test_drafts_may_repeat_and_are_told_apart_by_their_source(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    for source in ("X = 1\n", "X = 2\n", "X = 2\n"):
        store.add_evaluations(seed, "draft", [evaluation("one")], source=source)
    with View(store.path, run.id) as view:
        assert len(view.evaluations(seed, "draft")) == 3
        assert len(view.evaluations(seed, "draft", digest=source_digest("X = 2\n"))) == 2
        assert view.source(source_digest("X = 2\n")) == "X = 2\n"


def test_a_draft_needs_its_source_and_nothing_else_takes_one(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    with pytest.raises(ValueError, match="draft"):
        store.add_evaluations(seed, "draft", [evaluation()])
    with pytest.raises(ValueError, match="screen"):
        store.add_evaluations(seed, "screen", [evaluation()], source="X = 1\n")


def test_an_attempt_ends_once(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    store.add_outcome(AttemptOutcome(seed, "seed"))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.add_outcome(AttemptOutcome(seed, "crashed"))
    with View(store.path, run.id) as view:
        assert view.counts() == {"seed": 1}


def test_records_of_what_does_not_exist_are_refused(store: Store, run: Run) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.add_outcome(AttemptOutcome(99, "seed"))
    with pytest.raises(sqlite3.IntegrityError):
        store.add_evaluations(99, "screen", [evaluation()])
    with pytest.raises(sqlite3.IntegrityError):
        store.add_event(99, NoiseFloor(0.01))
    store.add_event(run.id, NoiseFloor(0.01))
    assert [rows(store.path, table) for table in ("outcome", "evaluation", "event")] == [0, 0, 1]


def test_a_reopened_store_goes_on_where_it_was(path: Path, store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    store.close()
    with Store.open(path) as again:
        second = add_seed(again, run, "X = 2\n")
        assert latest_run(path, run.kernel) == run
    assert second == seed + 1


def test_a_newer_schema_is_a_usage_error_naming_the_file(path: Path, store: Store, run: Run) -> None:
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(InvalidInput, match=rf"lineage\.sqlite3: .*newer.*{VERSION} at most, found {VERSION + 1}"):
        Store.open(path)
    with pytest.raises(InvalidInput, match="newer"):
        View(path, run.id)


def test_files_that_are_no_lineage_are_usage_errors(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("not a database, but long enough to be taken for the header of one\n" * 20)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    for path in (text, other, tmp_path):
        with pytest.raises(InvalidInput, match=path.name):
            Store.open(path)
    with pytest.raises(InvalidInput, match="no such file"):
        View(tmp_path / "absent", 1)
    assert not (tmp_path / "absent").exists()


def test_several_threads_may_write(store: Store, run: Run) -> None:
    threads = [threading.Thread(target=lambda: [add_seed(store, run) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(store.path, "attempt") == 80


def test_two_processes_may_create_the_file_at_once(path: Path) -> None:
    code = (
        f"from pathlib import Path; from pytest_avo.lineage.store import Store; Store.open(Path({str(path)!r})).close()"
    )
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(timeout=600) for process in started] == [0, 0, 0]
    assert rows(path, "run") == 0


WRITER = f"""
import sys
from pathlib import Path
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.lineage.events import NoiseFloor, Note
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.lineage.store import Store

store = Store.open(Path(sys.argv[1]))
for number in range(100_000):
    attempt = store.add_attempt(run=int(sys.argv[2]), generation=number, member=0, parent=None,
                                source=f"X = {{number}}\\n", operator="test", hypothesis="", predicted={{}})
    print("attempt", attempt.id, flush=True)
    batch = [Evaluation(str(shape), "ok", log="x" * 3000) for shape in range({BATCH})]
    store.add_evaluations(attempt.id, "screen", batch)
    print("evaluated", attempt.id, flush=True)
    store.add_outcome(AttemptOutcome(attempt.id, "same"))
    print("finished", attempt.id, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011, 0.04, 0.1, 0.2])
def test_a_killed_writer_loses_nothing_it_was_told_is_kept(path: Path, store: Store, run: Run, delay_s: float) -> None:
    store.close()
    command = [sys.executable, "-c", WRITER, str(path), str(run.id)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = writer.stdout.readline()
        time.sleep(delay_s)
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.stdout.read()
    # The kill may tear the last line.
    words = [line.split() for line in told.splitlines(keepends=True) if line.endswith("\n")]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    with Store.open(path), View(path, run.id) as view:
        attempts = {attempt.id for attempt in view.attempts()}
        assert {int(number) for kind, number in words if kind == "attempt"} <= attempts
        assert all(view.source(attempt.digest) for attempt in view.attempts())
        stored = {number: len(view.evaluations(number, "screen")) for number in attempts}
        assert set(stored.values()) <= {0, BATCH}
        assert {int(number) for kind, number in words if kind == "evaluated"} <= {n for n in attempts if stored[n]}
        assert {int(number) for kind, number in words if kind == "finished"} <= view.outcomes().keys()
        assert len(view.unfinished()) <= 1


def test_readers_see_whole_batches_while_the_writer_writes(store: Store, run: Run) -> None:
    seed = add_seed(store, run)
    views = [View(store.path, run.id), View(store.path, run.id)]
    seen: list[list[int]] = [[], []]
    done = threading.Event()

    def read(view: View, lengths: list[int]) -> None:
        while not done.is_set():
            lengths.append(len(view.evaluations(seed, "screen")))

    threads = [threading.Thread(target=read, args=pair) for pair in zip(views, seen, strict=True)]
    for thread in threads:
        thread.start()
    while not all(seen):
        time.sleep(0.001)
    for batch in range(30):
        store.add_evaluations(seed, "screen", [evaluation(f"{batch}-{number}") for number in range(BATCH)])
    done.set()
    for thread in threads:
        thread.join()
    for view, lengths in zip(views, seen, strict=True):
        assert lengths
        assert lengths == sorted(lengths)
        assert {length % BATCH for length in lengths} == {0}
        assert len(view.evaluations(seed, "screen")) == 30 * BATCH
        view.close()


def test_a_file_that_was_removed_or_replaced_is_not_written_into_nowhere(store: Store, run: Run) -> None:
    moved = store.path.rename(store.path.with_name("moved"))
    with pytest.raises(OSError, match="was removed or replaced while a run writes to it"):
        store.add_event(run.id, NoiseFloor(0.01))
    store.path.touch()
    with pytest.raises(OSError, match="was removed or replaced"):
        store.add_event(run.id, NoiseFloor(0.01))
    moved.replace(store.path)
    store.add_event(run.id, NoiseFloor(0.01))
