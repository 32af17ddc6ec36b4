from __future__ import annotations

import threading

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.pool.gateway import WorkerRefused
from pytest_avo.evaluation.pool.jobs import Job, Jobs
from pytest_avo.evaluation.pool.roster import Roster
from pytest_avo.evaluation.worker_messages import Hello
from tests.evaluation.laboratory import shape

HERE = CpuDevice().fingerprint()
OTHER = msgspec.structs.replace(HERE, device="Abacus")


def hello(fingerprint: Fingerprint = HERE, *, host: str = "here", sandbox: str = "landlock, seccomp") -> Hello:
    return Hello(host=host, pid=1, device="cpu", fingerprint=fingerprint, peers=(), sandbox=sandbox)


def roster(jobs: Jobs, *, kind: Fingerprint | None = None) -> Roster:
    return Roster(jobs, required=("landlock",), kind=kind)


def is_refused(jobs: Jobs) -> str:
    job = Job(EvaluationRequest(number=0, subject=Subject("mine.py", ""), shapes=(shape(),)))
    jobs.put(job)
    [future] = job.futures.values()
    return str(future.exception()) if future.done() else ""


def test_the_first_in_order_that_can_be_used_says_of_which_kind_a_run_is() -> None:
    workers = roster(Jobs())
    first, second, third = (workers.enrol(f"gw{number}") for number in range(3))
    later = threading.Thread(target=workers.admit, args=(second, hello(host="second")))
    later.start()
    later.join(timeout=0.1)
    assert later.is_alive(), "the first may still be of another kind"
    workers.out(first, "lost", "no route")
    later.join(timeout=180)
    with pytest.raises(WorkerRefused, match=r"another kind than the run's \(device: Abacus"):
        workers.admit(third, hello(OTHER))
    workers.out(third, "refused", "of another kind")
    assert workers.first_ready().host == "second"
    assert [member.state for member in (first, second, third)] == ["lost", "ready", "refused"]


def test_a_run_of_a_kind_and_a_required_layer_refuse_others() -> None:
    workers = roster(Jobs(), kind=OTHER)
    with pytest.raises(WorkerRefused, match="Abacus here"):
        workers.admit(workers.enrol("gw0"), hello())
    with pytest.raises(WorkerRefused, match="does not offer landlock"):
        workers.admit(workers.enrol("gw1"), hello(OTHER, sandbox="seccomp"))


def test_with_nobody_left_jobs_fail_until_a_worker_is_connected_again() -> None:
    jobs = Jobs()
    workers = roster(jobs)
    first, second = workers.enrol("gw0"), workers.enrol("gw1")
    workers.out(first, "lost", "no route")
    assert not is_refused(jobs)
    workers.out(second, "refused", "too old")
    assert is_refused(jobs) == "no worker is left: gw0: lost: no route; gw1: refused: too old"
    with pytest.raises(EvaluatorError, match="no worker is left"):
        workers.first_ready()
    workers.expect(first)
    assert not is_refused(jobs)


def test_a_fate_is_news_once_and_none_once_the_run_ends() -> None:
    jobs = Jobs()
    workers = roster(jobs)
    member = workers.enrol("gw0")
    workers.out(member, "lost", "no route")
    workers.out(member, "lost", "no route")
    assert workers.news() == ["worker gw0 is lost: no route"]
    jobs.close()
    workers.out(member, "refused", "cut")
    assert workers.news() == []
    assert member.state == "lost"
