from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.evaluation.pool.jobs import Job, Jobs
from tests.evaluation.laboratory import shape

ONE, TWO = shape(), shape(lengths=(1, 96))


def job(name: str = "mine.py") -> Job:
    return Job(EvaluationRequest(number=0, subject=Subject(name, ""), shapes=(ONE, TWO)))


def taken(jobs: Jobs) -> str:
    found = jobs.take("gw0")
    assert found is not None
    return found.request.subject.label


def why(future: Future[Evaluation]) -> str:
    return str(future.exception(timeout=180))


def test_jobs_are_taken_in_order_and_one_that_a_worker_lost_before_all_others() -> None:
    jobs = Jobs()
    assert not jobs.wanted.is_set()
    jobs.put(job("first"))
    jobs.put(job("second"))
    jobs.put(job("lost"), first=True)
    assert jobs.wanted.is_set()
    assert [taken(jobs) for _ in range(3)] == ["lost", "first", "second"]


def test_a_worker_takes_what_it_was_told_of_first_and_no_two_are_told_of_the_same() -> None:
    jobs = Jobs(workers=2)
    for name in ("one", "two", "three", "four"):
        jobs.put(job(name))
    told = {worker: jobs.upcoming(worker, most=most) for worker, most in (("gw1", 2), ("gw0", 1))}
    assert [request.subject.label for request in told["gw1"]] == ["one", "two"]
    assert [request.subject.label for request in told["gw0"]] == ["three"]
    assert jobs.upcoming("gw1", most=2) == []  # it has two to prepare for
    assert [taken(jobs) for _ in range(4)] == ["three", "four", "two", "one"]  # its own, nobody's, others' last


def test_a_worker_prepares_for_its_share_alone_and_leaves_the_first_to_one_that_is_idle() -> None:
    jobs = Jobs(workers=2)
    jobs.put(job("one"))
    taken(jobs)
    for name in ("two", "three", "four"):
        jobs.put(job(name))
    jobs._idle = 1  # it was woken, and has not taken the next one yet
    assert [request.subject.label for request in jobs.upcoming("gw0", most=2)] == ["three"]
    jobs._idle = 0
    assert taken(jobs) == "three"
    jobs.put(job("five"))
    assert [request.subject.label for request in jobs.upcoming("gw1", most=2)] == ["two", "four"]
    assert [request.subject.label for request in jobs.upcoming("gw0", most=2)] == ["five"]


def test_what_was_answered_is_not_left_and_does_not_fail() -> None:
    half = job()
    half.futures[ONE.id].set_result(Evaluation(ONE.id, "ok"))
    assert [each.id for each in half.left.shapes] == [TWO.id]
    half.fail(EvaluatorError("lost"))
    assert half.futures[ONE.id].result().outcome == "ok"
    assert why(half.futures[TWO.id]) == "lost"


def test_while_jobs_are_refused_those_that_wait_and_those_that_come_fail() -> None:
    jobs, waiting, late, last = Jobs(), job(), job(), job("last")
    jobs.put(waiting)
    jobs.refuse(EvaluatorError("no worker is left"))
    jobs.put(late)
    assert {why(future) for each in (waiting, late) for future in each.futures.values()} == {"no worker is left"}
    jobs.accept()
    jobs.put(last)
    assert taken(jobs) == "last"


@pytest.mark.parametrize("reopened", [False, True])
def test_closing_lets_waiting_workers_go_and_is_for_good(reopened: bool) -> None:
    jobs, late, found = Jobs(), job(), []
    worker = threading.Thread(target=lambda: found.append(jobs.take("gw0")))
    worker.start()
    jobs.close()
    worker.join(timeout=180)
    assert found == [None]
    if reopened:
        jobs.accept()
    jobs.put(late)
    assert why(late.futures[ONE.id]) == "the run is ending"
    assert jobs.wanted.is_set(), "a worker that waits for the first job ends too"
