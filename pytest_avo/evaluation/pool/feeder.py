"""Feeds one worker of a pool: a thread that connects it, hands it requests and takes its answers."""

from __future__ import annotations

import itertools
import threading
import time

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.evaluator import PREPARED, Work
from pytest_avo.evaluation.pool.gateway import Gateway, WorkerRefused
from pytest_avo.evaluation.pool.jobs import Job, Jobs
from pytest_avo.evaluation.pool.roster import Roster
from pytest_avo.evaluation.worker_messages import (
    Evaluate,
    Failure,
    Finished,
    Prepare,
    Progress,
    ShapeDone,
    WorkerConfig,
)

TRIES = 3
"""Workers that one request may lose: then it is the request."""
CONNECT_TRIES = 2
RETRY_S = 60.0
LONGEST_REASON = 300
"""Characters of an error that are said."""


class Feeder(threading.Thread):
    """One gateway and the thread that feeds it."""

    def __init__(self, spec: str, config: WorkerConfig, *, jobs: Jobs, roster: Roster) -> None:
        super().__init__(daemon=True, name=f"avo-{config.worker}")
        self.doing = "idle"
        self._spec = spec
        self.config = config
        self._jobs = jobs
        self._roster = roster
        self.member = roster.enrol(f"{config.worker} ({spec})")
        self._numbers = itertools.count(1)
        self._evaluations = 0
        self._busy_s = 0.0
        self._gateway: Gateway | None = None
        self._prepared: set[str] = set()
        """Digests of the sources that the worker was told to prepare while it had nothing to do."""

    def run(self) -> None:
        self._jobs.wanted.wait()
        while not self._jobs.closed:
            if self._gateway is None and not self._connect():
                if self.member.state == "refused" or self._jobs.ended.wait(RETRY_S):
                    return
                continue
            match self._jobs.take(self.config.worker, known=self._prepared if self._looks_ahead else None):
                case None:
                    break
                case Prepare() as order:
                    self._prepare(order)
                case Job() as job:
                    self._do(job)
        self.drop()

    def work(self) -> Work:
        """What the worker did so far."""
        member = self.member
        return Work(
            worker=member.label,
            host=member.hello.host if member.hello else "",
            device=member.hello.device if member.hello else "",
            evaluations=self._evaluations,
            busy_s=self._busy_s,
            fate="" if member.state == "ready" else member.reason,
        )

    def drop(self) -> None:
        """Cut the line; the worker and all below it end."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.cut()

    @property
    def _looks_ahead(self) -> bool:
        """Whether the worker does something for what it is told of before it is asked."""
        return self.member.hello is not None and self.member.hello.looks_ahead

    def _connect(self) -> bool:
        """Connect and be admitted; else the roster says what became of it."""
        again = self.member.state != "new"
        self.doing = f"starting worker {self.config.worker}"
        self._roster.expect(self.member)
        self._prepared.clear()
        for left in reversed(range(CONNECT_TRIES)):
            gateway = self._gateway = Gateway(self._spec, self.config)
            try:
                if self._jobs.closed:  # then drop() may have come too early to see the gateway
                    raise ConnectionError("the run is ending")
                self._roster.admit(self.member, gateway.connect())
            except Exception as error:
                self.drop()
                refused = isinstance(error, WorkerRefused)
                if not refused and left and not self._jobs.closed:
                    continue
                self.doing = "idle"
                self._roster.out(
                    self.member, "refused" if refused else "lost", str(error) if refused else _brief(error)
                )
                return False
            self.doing = "idle"
            if again:
                self._roster.tell(f"worker {self.member.label} is back")
            return True
        raise AssertionError("the last try returns")

    def _prepare(self, order: Prepare) -> None:
        """Have the worker prepare while it has nothing to do; one that is lost is started again."""
        self._prepared.update(text_digest(subject.source) for subject in order.subjects)
        gateway = self._gateway
        assert gateway is not None
        try:
            gateway.send(order)
        except Exception as error:  # as below
            self.drop()
            if not self._jobs.closed:
                self._roster.tell(f"worker {self.member.label} was lost: {_brief(error)}")

    def _do(self, job: Job) -> None:
        start = time.monotonic()
        try:
            self._evaluate(job)
        except Exception as error:  # whatever execnet raises for a lost line; none of it is the kernel's doing
            self.drop()
            job.tries += 1
            if self._jobs.closed or job.tries == TRIES:
                job.fail(EvaluatorError(f"worker {self.member.label} was lost: {_brief(error)}"))
            else:
                self._roster.expect(self.member)
                self._roster.tell(f"worker {self.member.label} was lost: {_brief(error)}; what it did is done again")
                self._jobs.put(job, first=True)
        self._busy_s += time.monotonic() - start
        self.doing = "idle"

    def _evaluate(self, job: Job) -> None:
        gateway = self._gateway
        assert gateway is not None
        number = next(self._numbers)
        gateway.send(Evaluate(msgspec.structs.replace(job.left, number=number)))
        while True:
            self._look_ahead(gateway)
            match gateway.receive():
                case Progress(text=text):
                    self.doing = text or self.doing
                case ShapeDone(number=answered, evaluation=evaluation) if answered == number:
                    self._evaluations += 1
                    job.futures[evaluation.shape].set_result(evaluation)
                case Finished(number=answered) if answered == number:
                    return
                case Failure(reason=reason):
                    job.fail(EvaluatorError(reason))
                    return

    def _look_ahead(self, gateway: Gateway) -> None:
        """Tell the worker what it will be asked next."""
        if not self._looks_ahead:
            return
        for request in self._jobs.upcoming(self.config.worker, most=PREPARED):
            gateway.send(Prepare(request.subjects, request.shapes, request.claim_alone, request.brief))


def _brief(error: Exception) -> str:
    """An error in a line; a worker's comes as a traceback, whose last words alone say what it is."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    said = (lines[frames[-1] + 1 :] if frames else []) or lines[-1:]
    return ": ".join([type(error).__name__, *([" ".join(said)[:LONGEST_REASON]] if said else [])])
