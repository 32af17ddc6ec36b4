"""What feeds one worker of a pool: a thread that connects it, hands it requests and takes its answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Literal

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
from pytest_avo.evaluation.pool.gateway import Gateway, Refused

if TYPE_CHECKING:
    from pytest_avo.evaluation.pool.pool import Pool

TRIES = 3
"""Workers that one request may lose: then it is the request."""
CONNECT_TRIES = 2
RETRY_S = 60.0

State = Literal["new", "connecting", "ready", "lost", "refused"]


class Job:
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


class Feeder(threading.Thread):
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

    def _do(self, job: Job) -> None:
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

    def _evaluate(self, job: Job) -> None:
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


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
