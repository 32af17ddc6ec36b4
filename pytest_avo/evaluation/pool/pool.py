"""The evaluator of a run: a queue in front of workers, one per device, on this host or others.

A worker that is lost in the middle of a request loses nothing: what it answered is kept, the rest goes to the next
worker that is free. It is connected anew, at once and then every minute, for as long as another one is left.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import (
    Evaluation,
    EvaluationRequest,
    Hello,
    WorkerConfig,
)
from pytest_avo.core.fingerprint import Fingerprint, differences_in_kind
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.pool.feeder import Feeder, Job
from pytest_avo.evaluation.pool.gateway import Refused, place


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
        self._jobs: queue.PriorityQueue[tuple[int, int, Job | None]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._workers: list[Feeder] = []
        hosts = [place(spec) for spec in specs]
        for index, spec in enumerate(specs):
            config = WorkerConfig(
                worker=f"gw{index}",
                layers=layers,
                device=first_device + hosts[:index].count(hosts[index]),
                target=kind.target if kind is not None else "",
                workers=hosts.count(hosts[index]),
            )
            self._workers.append(Feeder(self, spec, config))
        for worker in self._workers:
            worker.start()

    # ---- asked by the run

    def submit(self, request: EvaluationRequest, *, urgent: bool = False) -> Mapping[str, Future[Evaluation]]:
        job = Job(request)
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

    def put(self, job: Job, *, urgent: bool) -> None:
        """Queue a job; where nobody would take it, it fails at once."""
        with self._changed:
            if not self.closed and not self._is_deserted():
                self._jobs.put((0 if urgent else 1, next(self._order), job))
                self.wanted.set()
                return
        job.fail(EvaluatorError("the run is ending") if self.closed else self._nobody())

    def take(self) -> Job | None:
        """The next job for a worker; None when the pool is closed."""
        _, _, job = self._jobs.get()
        if job is None or self.closed:
            self._jobs.put((-1, next(self._order), None))
            if job is not None:
                job.fail(EvaluatorError("the run is ending"))
            return None
        return job

    def admit(self, worker: Feeder, hello: Hello) -> None:
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

    def out(self, worker: Feeder, state: Literal["lost", "refused"], reason: str) -> None:
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

    def _is_first(self, worker: Feeder) -> bool:
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
