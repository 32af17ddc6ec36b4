"""The pool with real workers: what survives the loss of every process of it, and that none is ever left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Limits, Subject, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.linux import processes
from pytest_avo.evaluation.pool import gateway
from pytest_avo.evaluation.pool.pool import Pool
from tests import ROOT, sshd
from tests.evaluation.conftest import SECRET
from tests.evaluation.laboratory import PATIENCE_S, gone, kernel, shape
from tests.evaluation.pool import scripted_worker

ONE, TWO = shape(), shape(lengths=(1, 90), causal=False)
HUNG = kernel("while True: pass")
SLOW = kernel("time.sleep(0.02)")
"""A check of it takes seconds: long enough to be seen at it."""
Answers = Mapping[str, Future[Evaluation]]


def request(source: str, *, shapes: tuple[Shape, ...] = (ONE,), plan: TimingPlan | None = None) -> EvaluationRequest:
    limits = Limits(build=60, check=60, time=60)
    return EvaluationRequest(number=0, subject=Subject("mine.py", source), shapes=shapes, limits=limits, plan=plan)


def outcomes(answers: Answers) -> dict[str, str]:
    return {name: future.result(timeout=PATIENCE_S).outcome for name, future in answers.items()}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def below() -> set[int]:
    """All processes that this one started, fork servers of other tests too."""
    return {process.pid for process in processes.tree(os.getpid())[1:]}


@pytest.fixture
def before() -> set[int]:
    """What was there before a test."""
    return below()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes that call every kernel right."""
    monkeypatch.setattr(gateway, "BOOTSTRAP", scripted_worker.BOOTSTRAP)


def worker_pid(pool: Pool) -> int:
    return pool.meet().pid


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(["popen"])
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def worker(pool: Pool) -> int:
    """Process number of the worker that starts with the first request."""
    assert outcomes(pool.submit(request(kernel()))) == {ONE.id: "ok"}
    return worker_pid(pool)


def test_requests_are_answered_shape_by_shape(pool: Pool, worker: int) -> None:
    wrong = kernel("if q.shape[2] == 1 and k.shape[2] == 90: return torch.zeros_like(q)")
    first = pool.submit(request(kernel(), shapes=(ONE, TWO)))
    # Its claim alone: beside that of the first shape a check may ask for the lengths of the second one, by chance.
    second = pool.submit(msgspec.structs.replace(request(wrong, shapes=(ONE, TWO)), claim_alone=True))
    assert outcomes(second) == {ONE.id: "ok", TWO.id: "incorrect"}
    assert outcomes(first) == {ONE.id: "ok", TWO.id: "ok"}
    evaluation = first[ONE.id].result()
    assert evaluation.worker == "gw0"
    assert evaluation.device
    assert processes.is_running(worker)


def test_a_kernel_is_timed_beside_its_baseline_in_the_worker(pool: Pool) -> None:
    asked = request(kernel(), plan=TimingPlan(min_rounds=3, max_rounds=3))
    found = pool.submit(asked)[ONE.id].result(timeout=PATIENCE_S)
    assert found.outcome == "ok"
    assert found.timing is not None


def test_a_worker_says_what_it_does_and_how_kernels_are_confined(pool: Pool, worker: int) -> None:
    seen: set[str] = set()
    answers = pool.submit(request(SLOW))
    while not answers[ONE.id].done():
        seen.add(pool.doing())
        time.sleep(0.02)
    assert any(x.startswith(f"checking mine.py on {ONE.id} (1 of 1)") for x in seen)
    until(lambda: pool.doing() == "idle")
    assert pool.meet().sandbox


def environment(pid: int) -> bytes:
    """The initial environment of a process; nothing of one that is gone meanwhile, as the last kernel's may be."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def test_no_process_that_forks_kernels_ever_had_a_key(worker: int) -> None:
    family = [process.pid for process in processes.tree(worker)[1:]]
    assert family
    assert not any(SECRET.encode() in environment(pid) for pid in family)


def test_a_killed_fork_server_is_replaced(pool: Pool, worker: int) -> None:
    assert outcomes(pool.submit(request(kernel()))) == {ONE.id: "ok"}
    [fork_server] = processes.children(worker)
    os.kill(fork_server, signal.SIGKILL)
    assert gone([fork_server])
    assert outcomes(pool.submit(request(kernel()))) == {ONE.id: "ok"}
    assert processes.is_running(worker)


def test_a_worker_that_falls_silent_is_replaced_and_its_work_done_again(
    pool: Pool, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SILENCE_LIMIT_S", 5.0)
    answers = pool.submit(request(SLOW))
    until(lambda: pool.doing().count("checking") == 1)
    stopped = [process.pid for process in processes.tree(worker_pid(pool))]
    os.kill(stopped[0], signal.SIGSTOP)
    news: list[str] = []

    def is_told() -> bool:
        news.extend(pool.news())
        return any("gw0 (popen) was lost" in line for line in news)

    until(is_told)
    monkeypatch.undo()  # the next one may be busy for longer
    assert outcomes(answers) == {ONE.id: "ok"}
    assert worker_pid(pool) != stopped[0]
    assert gone(stopped)


def test_a_worker_that_cannot_start_is_the_evaluators_failure() -> None:
    pool = Pool(["popen//python=no-such-interpreter"])
    with pytest.raises(EvaluatorError, match="no worker is left: gw0 "):
        pool.submit(request(kernel()))[ONE.id].result(timeout=PATIENCE_S)
    pool.close()


def test_closing_during_a_hang_ends_everything(before: set[int]) -> None:
    pool = Pool(["popen"])
    answers = [*pool.submit(request(HUNG)).values(), *pool.submit(request(kernel(), shapes=(TWO,))).values()]
    until(lambda: len(below() - before) >= 3)
    started = below() - before
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 45, "the kernel has 60 s"
    for future in answers:
        with pytest.raises(EvaluatorError):
            future.result(timeout=PATIENCE_S)
    with pytest.raises(EvaluatorError, match="the run is ending"):
        pool.submit(request(kernel()))[ONE.id].result(timeout=PATIENCE_S)
    assert gone(started)


@pytest.mark.parametrize("pause_s", [0.0, 0.5])
def test_closing_while_a_worker_starts_ends_it_too(before: set[int], pause_s: float) -> None:
    pool = Pool(["popen"])
    answers = pool.submit(request(kernel()))
    time.sleep(pause_s)
    pool.close()
    with pytest.raises(EvaluatorError):
        answers[ONE.id].result(timeout=PATIENCE_S)
    until(lambda: not any(worker.is_alive() for worker in pool._workers))
    assert gone(below() - before)


def test_closing_an_unused_pool_starts_nothing(before: set[int]) -> None:
    pool = Pool(["popen", "popen"])
    pool.close()
    assert below() == before


@pytest.mark.usefixtures("scripted")
def test_the_loss_of_a_worker_loses_no_work_and_the_other_one_goes_on(before: set[int]) -> None:
    pool = Pool(["popen", "popen"])
    try:
        answers = [pool.submit(request(SLOW, shapes=(ONE, TWO))) for _ in range(3)]
        until(lambda: all(work.host for work in pool.work()) and pool.doing().count("checking") == 2)
        first, second = (worker.member.hello.pid for worker in pool._workers if worker.member.hello)
        until(lambda: any(each[ONE.id].done() for each in answers))
        done = {each[ONE.id]: each[ONE.id].result().seed for each in answers if each[ONE.id].done()}
        descendants = [process.pid for process in processes.tree(second)]
        os.kill(second, signal.SIGKILL)
        assert [outcomes(each) for each in answers] == [{ONE.id: "ok", TWO.id: "ok"}] * 3
        assert all(future.result().seed == seed for future, seed in done.items()), "what was answered is not done again"
        assert gone(descendants)
        until(lambda: any("back" in line for line in pool.news()) or all(work.fate == "" for work in pool.work()))
        work = pool.work()
        assert sum(each.evaluations for each in work) == 6, "nothing is counted twice"
        assert all(each.busy_s > 0 for each in work)
        assert pool.meet().pid == first
    finally:
        pool.close()
    assert gone(below() - before)


@pytest.mark.usefixtures("scripted")
def test_a_worker_with_nothing_to_do_prepares_what_another_one_is_busy_with() -> None:
    pool = Pool(["popen", "popen"])
    try:
        assert outcomes(pool.submit(request("first"))) == {ONE.id: "ok"}
        until(lambda: all(work.host for work in pool.work()) and pool.doing() == "idle")
        seed = msgspec.structs.replace(request("seed", shapes=(ONE, TWO)), subject=Subject("seed.py", "seed"))
        [busy] = {future.result(PATIENCE_S).worker for future in pool.submit(seed).values()}
        after = [pool.submit(request(str(number), shapes=(ONE, TWO))) for number in range(4)]
        logs = {x.worker: x.log.split() for x in (each[TWO.id].result(PATIENCE_S) for each in after)}
        assert {worker: log.count("seed.py") for worker, log in logs.items()} == {
            worker: int(worker != busy) for worker in ("gw0", "gw1")
        }
    finally:
        pool.close()


@pytest.mark.usefixtures("scripted")
def test_a_worker_that_is_lost_while_it_has_nothing_to_do_is_started_again() -> None:
    pool = Pool(["popen", "popen"])
    try:
        assert outcomes(pool.submit(request("first"))) == {ONE.id: "ok"}
        until(lambda: all(work.host for work in pool.work()) and pool.doing() == "idle")
        pids = [worker.member.hello.pid for worker in pool._workers if worker.member.hello]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert gone(pids)
        assert outcomes(pool.submit(request("third"))) == {ONE.id: "ok"}
        assert outcomes(pool.submit(request("fourth"))) == {ONE.id: "ok"}
    finally:
        pool.close()


@pytest.mark.usefixtures("scripted")
def test_a_worker_of_another_kind_is_refused_and_the_rest_goes_on() -> None:
    # The same machine with one processor is another kind of device.
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this machine gives tests one core")
    other = f"popen//python=taskset -c {cores[0]} {sys.executable}"
    pool = Pool(["popen", other])
    try:
        assert outcomes(pool.submit(request(kernel()))) == {ONE.id: "ok"}
        until(lambda: "refused" in pool.work()[1].fate)
        assert [work.evaluations for work in pool.work()] == [1, 0]
        [line] = pool.news()
        kinds = f"(units: 1 there, {len(cores)} here)"
        assert line.endswith(f"is refused: its device is of another kind than the run's {kinds}")
    finally:
        pool.close()


@pytest.mark.usefixtures("scripted")
def test_the_kind_of_a_run_is_what_it_was_begun_with() -> None:
    kind = msgspec.structs.replace(CpuDevice().fingerprint(), device="Abacus")
    pool = Pool(["popen"], kind=kind)
    try:
        with pytest.raises(
            EvaluatorError, match=r"no worker is left: gw0 .*another kind .*\(device: .*, Abacus here\)"
        ):
            pool.submit(request(kernel()))[ONE.id].result(timeout=PATIENCE_S)
        with pytest.raises(EvaluatorError, match="no worker is left"):
            pool.submit(request(kernel()))[ONE.id].result(timeout=PATIENCE_S)
    finally:
        pool.close()


@pytest.mark.usefixtures("scripted")
def test_a_layer_that_the_user_requires_and_a_worker_lacks_refuses_it() -> None:
    pool = Pool(["popen"], layers=False, required=("landlock",))
    with pytest.raises(EvaluatorError, match="does not offer landlock"):
        pool.meet()
    pool.close()


@pytest.mark.skipif(sshd.MISSING, reason="needs sshd, ssh and, for root, /run/sshd")
def test_the_plug_of_one_host_of_two_is_pulled(tmp_path: Path, before: set[int]) -> None:
    with sshd.hosts(tmp_path / "ssh", ["alpha", "beta"], environment={"XDG_CACHE_HOME": str(tmp_path)}) as hosts:
        pool = Pool([hosts.spec("alpha"), hosts.spec("beta")])
        try:
            answers = [pool.submit(request(SLOW, shapes=(ONE, TWO))) for _ in range(4)]
            until(lambda: pool.doing().count("checking") == 2)
            hosts.pull_plug("beta")
            assert [outcomes(each) for each in answers] == [{ONE.id: "ok", TWO.id: "ok"}] * 4
            until(lambda: "lost" in pool.work()[1].fate)
            assert sum(work.evaluations for work in pool.work()) == 8
            hosts.pull_plug("alpha")
            with pytest.raises(EvaluatorError, match=r"no worker is left: gw0 .*ssh cannot reach it.*gw1"):
                pool.submit(request(kernel()))[ONE.id].result(timeout=PATIENCE_S)
        finally:
            pool.close()
    assert gone(below() - before)


CONTROLLER = """
import sys, time
from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.pool import gateway
from pytest_avo.evaluation.pool.pool import Pool
pool = Pool(["popen"], layers=False)  # the harder case
shape = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=1, seqlen_kv=1, head_dim=1, causal=False, dtype="f32")
pool.submit(EvaluationRequest(number=0, subject=Subject("mine.py", sys.argv[1]), shapes=(shape,)))
while "checking" not in pool.doing():
    time.sleep(0.02)
print("checking", flush=True)
time.sleep(600)
"""
ESCAPE = kernel("""
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
while True: pass
""")


def test_nothing_outlives_a_killed_controller() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CONTROLLER, ESCAPE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "checking\n"
        until(lambda: len(processes.tree(controller.pid)) >= 5)
        family = [process.pid for process in processes.tree(controller.pid)]
        controller.kill()
    assert gone(family)


@pytest.mark.usefixtures("scripted")
def test_a_socket_server_gives_a_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "execnet.script.socketserver", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as server:
        assert server.stdout is not None
        listening = server.stdout.readline()  # Entering Accept loop ('127.0.0.1', 40000)
        port = int(re.findall(r"\d+", listening)[-1])
        pool = Pool([f"socket=127.0.0.1:{port}"])
        try:
            assert outcomes(pool.submit(request(kernel(), shapes=(ONE, TWO)))) == {ONE.id: "ok", TWO.id: "ok"}
            assert pool.meet().pid == server.pid
        finally:
            pool.close()
            server.wait(timeout=PATIENCE_S)


def test_the_workers_of_a_host_deal_its_devices(before: set[int]) -> None:
    specs = [
        "popen",
        "ssh=alpha//python=python3",
        "popen//nice=5",
        "ssh=beta",
        "ssh=alpha",
        "socket=gamma:1",
        "socket=gamma:2",
    ]
    pool = Pool(specs, first_device=4)
    assert [worker.config.device for worker in pool._workers] == [4, 4, 5, 4, 5, 4, 5]
    assert [worker.config.dealing for worker in pool._workers] == [2, 2, 2, 1, 2, 2, 2]
    pool.close()
    assert below() == before
