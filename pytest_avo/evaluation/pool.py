"""The evaluator of a run: a queue in front of workers, one per device, on this host or others.

A worker that is lost in the middle of a request loses nothing: what it answered is kept, the rest goes to the next
worker that is free. It is connected anew, at once and then every minute, for as long as another one is left.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Literal

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import (
    Answer,
    Evaluation,
    EvaluationRequest,
    Failure,
    Finished,
    Hello,
    Progress,
    WorkerConfig,
)
from pytest_avo.core.fingerprint import Fingerprint, differences_in_kind
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.gateway import Gateway, Refused, place

TRIES = 3
"""Workers that one request may lose: then it is the request."""
CONNECT_TRIES = 2
RETRY_S = 60.0

State = Literal["new", "connecting", "ready", "lost", "refused"]


class _Job:
    """A request, the futures of its shapes, and how often it was tried."""

    def __init__(self, request: EvaluationRequest) -> None:
        self.request = request
        self.futures: dict[str, Future[Evaluation]] = {shape.id: Future() for shape in request.shapes}
        self.tries = 0

    @property
    def left(self) -> EvaluationRequest:
        """What is still to be answered."""
        shapes = tuple(shape for shape in self.request.shapes if not self.futures[shape.id].done())
        return msgspec.structs.replace(self.request, shapes=shapes)

    def fail(self, error: EvaluatorError) -> None:
        for future in self.futures.values():
            try:
                future.set_exception(error)
            except InvalidStateError:
                continue


class _Worker(threading.Thread):
    """One gateway and the thread that feeds it."""

    def __init__(self, pool: Pool, spec: str, config: WorkerConfig) -> None:
        super().__init__(daemon=True, name=f"avo-{config.worker}")
        self.pool = pool
        self.spec = spec
        self.config = config
        self.label = f"{config.worker} ({spec})"
        self.state: State = "new"
        self.reason = ""
        self.doing = "idle"
        self.hello: Hello | None = None
        self.evaluations = 0
        self.busy_s = 0.0
        self._gateway: Gateway | None = None

    def run(self) -> None:
        self.pool.wanted.wait()
        while not self.pool.closed:
            if self._gateway is None and not self._connect():
                if self.state == "refused" or self.pool.ended.wait(RETRY_S):
                    return
                continue
            job = self.pool.take()
            if job is None:
                break
            self._do(job)
        self.drop()

    def drop(self) -> None:
        """Cut the line; the worker and all below it end."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.cut()

    def _connect(self) -> bool:
        """Connect and be admitted; else `state` and `reason` say what became of it."""
        again = self.state != "new"
        self.doing = f"starting worker {self.config.worker}"
        self.state = "connecting"
        for left in reversed(range(CONNECT_TRIES)):
            gateway = self._gateway = Gateway(self.spec, self.config)
            try:
                if self.pool.closed:  # then drop() may have come too early to see the gateway
                    raise ConnectionError("the run is ending")
                self.pool.admit(self, gateway.connect())
            except Exception as error:
                self.drop()
                refused = isinstance(error, Refused)
                if not refused and left and not self.pool.closed:
                    continue
                self.doing = "idle"
                self.pool.out(self, "refused" if refused else "lost", str(error) if refused else _brief(error))
                return False
            self.doing = "idle"
            if again:
                self.pool.tell(f"worker {self.label} is back")
            return True
        raise AssertionError("the last try returns")

    def _do(self, job: _Job) -> None:
        start = time.monotonic()
        try:
            self._evaluate(job)
        except Exception as error:  # whatever execnet raises for a lost line; none of it is the kernel's doing
            self.drop()
            job.tries += 1
            if self.pool.closed or job.tries == TRIES:
                job.fail(EvaluatorError(f"worker {self.label} was lost: {_brief(error)}"))
            else:
                self.state = "connecting"
                self.pool.tell(f"worker {self.label} was lost: {_brief(error)}; what it did is done again")
                self.pool.put(job, urgent=True)
        self.busy_s += time.monotonic() - start
        self.doing = "idle"

    def _evaluate(self, job: _Job) -> None:
        gateway = self._gateway
        assert gateway is not None
        number = next(self.pool.numbers)
        gateway.send(msgspec.structs.replace(job.left, number=number))
        while True:
            match gateway.receive():
                case Progress(text=text):
                    self.doing = text or self.doing
                case Answer(number=answered, evaluation=evaluation) if answered == number:
                    self.evaluations += 1
                    job.futures[evaluation.shape].set_result(evaluation)
                case Finished(number=answered) if answered == number:
                    return
                case Failure(reason=reason):
                    job.fail(EvaluatorError(reason))
                    return


class Pool:
    """Evaluates requests on its workers; implements Evaluator.

    The workers of a host deal its devices among themselves, in the order of their specs, beginning with `first_device`.
    All of them are of one kind: of `kind`, or, where that is None, of that of the first worker in the order of the
    specs that can be reached. Others are refused, so that no two figures of a run come from different kinds of device.
    """

    def __init__(
        self,
        specs: Sequence[str],
        *,
        layers: bool = True,
        required: Sequence[str] = (),
        first_device: int = 0,
        kind: Fingerprint | None = None,
    ) -> None:
        """layers: confine kernels; required: layers without which a worker is refused."""
        self.closed = False
        self.wanted = threading.Event()
        self.ended = threading.Event()
        self.numbers = itertools.count(1)
        self._required = required
        self._kind = kind
        self._news: queue.Queue[str] = queue.Queue()
        self._jobs: queue.PriorityQueue[tuple[int, int, _Job | None]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._workers: list[_Worker] = []
        for index, spec in enumerate(specs):
            ordinal = first_device + [place(other) for other in specs[:index]].count(place(spec))
            config = WorkerConfig(
                worker=f"gw{index}", layers=layers, device=ordinal, target=kind.target if kind is not None else ""
            )
            self._workers.append(_Worker(self, spec, config))
        for worker in self._workers:
            worker.start()

    # ---- asked by the run

    def submit(self, request: EvaluationRequest, *, urgent: bool = False) -> Mapping[str, Future[Evaluation]]:
        job = _Job(request)
        self.put(job, urgent=urgent)
        return job.futures

    def meet(self) -> Hello:
        """Start all workers and wait for them; the first in their order that can be used introduces itself.

        EvaluatorError where none can be used.
        """
        self.wanted.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_awaited())
            for worker in self._workers:
                if worker.state == "ready" and worker.hello is not None:
                    return worker.hello
        raise self._nobody()

    def doing(self) -> str:
        busy = [worker.doing for worker in self._workers if worker.doing != "idle"]
        return "; ".join(busy) or "idle"

    def news(self) -> list[str]:
        found = []
        while not self._news.empty():
            found.append(self._news.get_nowait())
        return found

    def work(self) -> list[Work]:
        return [
            Work(
                worker=worker.label,
                host=worker.hello.host if worker.hello else "",
                device=worker.hello.device if worker.hello else "",
                evaluations=worker.evaluations,
                busy_s=worker.busy_s,
                fate="" if worker.state == "ready" else worker.reason,
            )
            for worker in self._workers
        ]

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            self._jobs.put((-1, next(self._order), None))
        self.ended.set()
        self.wanted.set()
        for worker in self._workers:
            worker.drop()
        for worker in self._workers:
            worker.join(timeout=5.0)
        self._fail_queued(EvaluatorError("the run is ending"))

    # ---- asked by workers

    def put(self, job: _Job, *, urgent: bool) -> None:
        """Queue a job; where nobody would take it, it fails at once."""
        with self._changed:
            if not self.closed and not self._is_deserted():
                self._jobs.put((0 if urgent else 1, next(self._order), job))
                self.wanted.set()
                return
        job.fail(EvaluatorError("the run is ending") if self.closed else self._nobody())

    def take(self) -> _Job | None:
        """The next job for a worker; None when the pool is closed."""
        _, _, job = self._jobs.get()
        if job is None or self.closed:
            self._jobs.put((-1, next(self._order), None))
            if job is not None:
                job.fail(EvaluatorError("the run is ending"))
            return None
        return job

    def admit(self, worker: _Worker, hello: Hello) -> None:
        """Take a worker in; Refused when it is of another kind than the run's, or confines kernels too little."""
        worker.hello = hello
        missing = [layer for layer in self._required if layer not in hello.sandbox]
        if missing:
            raise Refused(f"--avo-sandbox=require: the host does not offer {', '.join(missing)}")
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._kind is not None or self.closed or self._is_first(worker))
            if self._kind is None:
                self._kind = hello.fingerprint
            if found := differences_in_kind(self._kind, hello.fingerprint):
                raise Refused(f"its device is of another kind than the run's ({'; '.join(found)})")
            worker.state, worker.reason = "ready", ""
            self._changed.notify_all()

    def out(self, worker: _Worker, state: Literal["lost", "refused"], reason: str) -> None:
        """A worker cannot be used, for now or at all; with nobody left, what is queued fails."""
        if self.closed:
            return
        fate = f"{state}: {reason}"
        if worker.reason != fate:
            self.tell(f"worker {worker.label} is {fate}")
        with self._changed:
            worker.state, worker.reason = state, fate
            self._changed.notify_all()
            deserted = self._is_deserted()
        if deserted:
            self._fail_queued(self._nobody())

    def tell(self, text: str) -> None:
        """Keep a piece of news for the run to show."""
        self._news.put(text)

    # ---- states

    def _is_awaited(self) -> bool:
        return not self.closed and any(worker.state in ("new", "connecting") for worker in self._workers)

    def _is_deserted(self) -> bool:
        return all(worker.state in ("lost", "refused") for worker in self._workers)

    def _is_first(self, worker: _Worker) -> bool:
        """Whether all workers before this one in the order of the specs are out."""
        earlier = itertools.takewhile(lambda other: other is not worker, self._workers)
        return all(other.state in ("lost", "refused") for other in earlier)

    def _nobody(self) -> EvaluatorError:
        fates = "; ".join(f"{worker.label}: {worker.reason}" for worker in self._workers)
        return EvaluatorError(f"no worker is left: {fates}")

    def _fail_queued(self, error: EvaluatorError) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                _, _, job = self._jobs.get_nowait()
                if job is not None:
                    job.fail(error)
        if self.closed:
            self._jobs.put((-1, next(self._order), None))


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
