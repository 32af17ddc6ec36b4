"""Requests that wait for a worker, and the futures of their shapes."""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.worker_messages import Prepare


class Job:
    """A request, the futures of its shapes, and how often it was tried."""

    def __init__(self, request: EvaluationRequest) -> None:
        self.request = request
        self.futures: dict[str, Future[Evaluation]] = {shape.id: Future() for shape in request.shapes}
        self.tries = 0
        self.prepared_by = ""
        """The worker that was told of it while it waited."""

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


def _rehearsal(request: EvaluationRequest) -> EvaluationRequest | None:
    """What the baseline of a request will be asked by a worker that is asked such a request next."""
    if request.plan is None or request.baseline is None or request.fresh:
        return None
    return msgspec.structs.replace(request, subject=request.baseline, claim_alone=True, brief=True)


class Jobs:
    """A queue of jobs. While it refuses them, because nobody would take them, they fail at once."""

    def __init__(self, *, workers: int = 1) -> None:
        """workers: how many take jobs from it."""
        self.wanted = threading.Event()
        """Set once there is work: workers start no sooner."""
        self.ended = threading.Event()
        self._workers = workers
        self._idle = 0
        """Workers that wait for a job."""
        self._busy: dict[str, EvaluationRequest] = {}
        """What is being answered, by worker."""
        self._waiting: deque[Job] = deque()
        self._refusal: EvaluatorError | None = None
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    def put(self, job: Job, *, first: bool = False) -> None:
        """Queue a job behind all others, or before them."""
        with self._changed:
            refusal = self._refusal
            if refusal is None:
                if first:
                    self._waiting.appendleft(job)
                else:
                    self._waiting.append(job)
                self.wanted.set()
                self._changed.notify()
        if refusal is not None:
            job.fail(refusal)

    def take(self, worker: str, *, known: set[str] | None = None) -> Job | Prepare | None:
        """The next job for a worker, waited for: one that it is prepared for, if there is; None once it is closed.

        Where others are prepared for all that waits it takes the one that they would come to last. While nothing waits
        it is told of the kernels that others are busy with, of which one will be the baseline of what comes next, and
        what that will be asked.
        known: those that it was told of, by the digests of their sources; None where it is to be told of nothing.
        """
        with self._changed:
            self._busy.pop(worker, None)
            self._idle += 1
            self._changed.wait_for(lambda: self.closed or self._waiting or self._elsewhere(known))
            self._idle -= 1
            if self.closed:
                return None
            if not self._waiting:
                return self._elsewhere(known)
            job = next((job for job in self._waiting if job.prepared_by == worker), None)
            job = job or next((job for job in self._waiting if not job.prepared_by), self._waiting[-1])
            self._waiting.remove(job)
            self._busy[worker] = job.request
            self._changed.notify_all()
            return job

    def _elsewhere(self, known: set[str] | None) -> Prepare | None:
        """Kernels that a worker is busy with and that are not known, to be asked about their claim as baselines are."""
        if known is None:
            return None
        for request in self._busy.values():
            unknown = tuple(x for x in request.subjects if text_digest(x.source) not in known)
            if unknown and not request.look:
                rehearsal = _rehearsal(request)
                return Prepare(unknown, request.shapes, claim_alone=True, brief=True, rehearsal=rehearsal)
        return None

    def upcoming(self, worker: str, *, most: int) -> list[EvaluationRequest]:
        """Requests that wait and that no worker was told of yet; this one is to prepare for so many at most.

        For no more than its share: what one has prepared for, another that is free sooner would have to begin anew.
        """
        with self._changed:
            mine = sum(job.prepared_by == worker for job in self._waiting)
            left = [job for job in self._waiting if not (job.prepared_by or job.request.look)]
            share = math.ceil((len(self._waiting) - self._idle) / self._workers)
            found = left[self._idle :][: max(0, min(most, share) - mine)]  # the first are taken at once by the idle
            for job in found:
                job.prepared_by = worker
            return [job.left for job in found]

    def refuse(self, error: EvaluatorError) -> None:
        """Fail what waits, and what comes until `accept`."""
        with self._changed:
            if self._refusal is None or not self.closed:
                self._refusal = error
            waiting = list(self._waiting)
            self._waiting.clear()
        for job in waiting:
            job.fail(error)

    def accept(self) -> None:
        """Queue jobs again; a closed queue stays closed."""
        with self._changed:
            if not self.closed:
                self._refusal = None

    def close(self) -> None:
        """Refuse jobs for good and let go whoever waits for one."""
        self.refuse(EvaluatorError("the run is ending"))
        with self._changed:
            self.ended.set()
            self._changed.notify_all()
        self.wanted.set()
