"""Batch jobs: when one is started, and when there is no use in another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.evaluation.spool import jobs as jobs_module
from pytest_avo.evaluation.spool.jobs import BatchJobs
from tests.evaluation.spool.desk import PATIENCE_S


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "PAUSE_S", 0.05)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def jobs(log: Path) -> Iterator[BatchJobs]:
    made = BatchJobs(f"echo begun >> {log}; echo queued; while [ ! -e {log}.end ]; do sleep 0.02; done; exit 3")
    yield made
    made.close()


def look(jobs: BatchJobs, word: str, *, answered: int = 0, is_served: bool = False) -> str:
    """Look until something with that word is said."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for line in jobs.look(is_served=is_served, answered=answered):
            if word in line:
                return line
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_is_started_at_a_time_and_none_where_somebody_serves(jobs: BatchJobs, log: Path) -> None:
    assert jobs.look(is_served=True) == []
    look(jobs, "started")
    deadline = time.monotonic() + PATIENCE_S
    while not (log.is_file() and log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # for a second one to begin
    assert jobs.look(is_served=False) == []
    assert log.read_text().splitlines() == ["begun"]


def test_job_after_job_that_answers_nothing_ends_the_wait(jobs: BatchJobs, log: Path) -> None:
    look(jobs, "started")
    log.with_name("log.end").touch()
    assert look(jobs, "ended").endswith("ended with status 3 and nothing was answered, it said: queued")
    with pytest.raises(EvaluatorError, match="Expected a command that lasts as long as its job, such as sbatch --wait"):
        look(jobs, "never")
    assert len(log.read_text().splitlines()) == 3


def test_jobs_that_answer_something_may_follow_each_other(jobs: BatchJobs, log: Path) -> None:
    log.with_name("log.end").touch()
    for answered in range(5):
        look(jobs, "started", answered=answered)
        time.sleep(0.1)


def test_the_job_that_only_said_what_device_there_is_has_done_its_part(jobs: BatchJobs, log: Path) -> None:
    look(jobs, "started")
    jobs.excuse()
    log.with_name("log.end").touch()
    assert look(jobs, "started")


def test_closing_ends_the_command(jobs: BatchJobs) -> None:
    look(jobs, "started")
    begun = time.monotonic()
    jobs.close()
    assert time.monotonic() - begun < PATIENCE_S
