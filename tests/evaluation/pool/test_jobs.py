from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.pool.jobs import Job, Jobs
from pytest_avo.evaluation.worker_messages import Prepare
from tests.evaluation.laboratory import shape

ONE, TWO = shape(), shape(lengths=(1, 96))


def job(name: str = "mine.py", *, source: str = "", **more: Any) -> Job:
    return Job(EvaluationRequest(number=0, subject=Subject(name, source), shapes=(ONE, TWO), **more))


def taken(jobs: Jobs) -> str:
    found = jobs.take("gw0")
    assert isinstance(found, Job)
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


def test_a_worker_with_nothing_to_do_is_told_once_of_each_kernel_that_another_is_busy_with() -> None:
    jobs, known, found = Jobs(workers=2), set[str](), queue.Queue[list[str]]()

    def idle() -> None:
        while (told := jobs.take("gw1", known=known)) is not None:
            assert isinstance(told, Prepare)
            assert (told.shapes, told.claim_alone) == ((ONE, TWO), True)
            known.update(text_digest(subject.source) for subject in told.subjects)
            found.put([subject.label for subject in told.subjects])

    def begun(each: Job) -> None:
        with jobs._changed:
            jobs._busy["gw0"] = each.request
            jobs._changed.notify_all()

    waiting = threading.Thread(target=idle)
    waiting.start()
    seed, incumbent = job("seed", source="1"), Subject("seed (incumbent)", "1")
    begun(seed)
    assert found.get(timeout=180) == ["seed"]
    begun(job("look", source="2", look="profile"))
    begun(job("unasked", source="3", baseline=Subject("not timed", "4")))
    assert found.get(timeout=180) == ["unasked"]
    begun(job("child", source="5", baseline=incumbent, plan=TimingPlan()))
    assert found.get(timeout=180) == ["child"]
    begun(seed)
    begun(job("other", source="6", baseline=Subject("new incumbent", "7"), plan=TimingPlan()))
    assert found.get(timeout=180) == ["other", "new incumbent"]
    jobs.close()
    waiting.join(timeout=180)
    assert found.empty()


def test_what_a_worker_did_last_and_what_nobody_asks_of_it_it_is_not_told_of() -> None:
    jobs = Jobs(workers=2)
    jobs.put(job("one"))
    assert taken(jobs) == "one"
    jobs.put(job("two"))
    assert jobs._elsewhere(set()) == Prepare((Subject("one", ""),), (ONE, TWO), claim_alone=True, brief=True)
    assert jobs._elsewhere(None) is None
    assert taken(jobs) == "two"  # what waits goes before what could be prepared
    assert jobs._elsewhere({text_digest("")}) is None


def test_a_worker_with_nothing_to_do_is_told_what_the_baseline_of_a_screening_is_asked() -> None:
    incumbent, plan = Subject("seed (incumbent)", "1"), TimingPlan()
    for more, rehearsed in (
        ({"plan": plan, "baseline": incumbent}, True),
        ({"plan": plan, "baseline": incumbent, "fresh": True}, False),  # in new processes, which nobody keeps
        ({"plan": plan}, False),
        ({"baseline": incumbent}, False),
    ):
        jobs = Jobs(workers=2)
        jobs.put(job("seed", source="1", **more))
        taken(jobs)
        told = jobs._elsewhere(set())
        assert told is not None
        assert (told.rehearsal is not None) == rehearsed
        if told.rehearsal is not None:
            assert (told.rehearsal.baseline, told.rehearsal.shapes) == (incumbent, (ONE, TWO))
            assert told.rehearsal.claim_alone
            assert told.rehearsal.brief


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
