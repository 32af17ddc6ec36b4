"""The evaluator of a run: a queue in front of execnet gateways, one per device."""

from __future__ import annotations

import itertools
import os
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import (
    Answer,
    Evaluation,
    EvaluationRequest,
    Failure,
    Finished,
    Hello,
    Message,
    Progress,
    WorkerConfig,
)

CONNECT_LIMIT_S = 120.0
SILENCE_LIMIT_S = 900.0
"""A worker that says nothing for so long is lost. Every phase of an evaluation has its own, shorter limit."""
TRIES = 2
BOOTSTRAP = """
import sys
sys.path.insert(0, {path!r})
from pytest_avo.evaluation.worker import serve
serve(channel)
"""

_decode = msgspec.json.Decoder(Message)


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

    def __init__(self, pool: Pool, spec: str, name: str, *, device: int) -> None:
        super().__init__(daemon=True, name=f"avo-{name}")
        self.pool = pool
        self.spec = spec
        self.worker = name
        self.device = device
        self.doing = "starting"
        self.hello: Hello | None = None
        self._group: Any = None
        self._channel: Any = None
        self._dropping = threading.Lock()

    def run(self) -> None:
        while (job := self.pool.take()) is not None:
            try:
                if self._group is None:
                    self._connect()
                self._evaluate(job)
            except (
                Exception
            ) as error:  # execnet reports a lost gateway by many types; none of them is the kernel's doing
                self.drop()
                job.tries += 1
                if job.tries < TRIES:
                    self.pool.put(job, urgent=True)
                else:
                    job.fail(EvaluatorError(f"worker {self.worker} ({self.spec}) was lost: {_brief(error)}"))
            self.doing = "idle"
        self.drop()

    def drop(self) -> None:
        """Close the gateway; its process and all below end."""
        with self._dropping:
            group, self._group = self._group, None
            if group is not None:
                group.terminate(timeout=2.0)

    def _connect(self) -> None:
        import execnet

        self.doing = f"starting worker {self.worker}"
        group = execnet.Group()
        gateway = group.makegateway(f"{self.spec}//execmodel=main_thread_only//id={self.worker}{_without_secrets()}")
        with self._dropping:
            self._group = group
        if self.pool.closed:
            raise EvaluatorError("the run is ending")  # drop() came too early to see the gateway
        package = str(Path(__file__).parents[2])
        self._channel = gateway.remote_exec(BOOTSTRAP.format(path=package))
        config = WorkerConfig(worker=self.worker, layers=self.pool.layers, device=self.device)
        self._channel.send(msgspec.json.encode(config))
        hello = _decode.decode(self._channel.receive(timeout=CONNECT_LIMIT_S))
        if not isinstance(hello, Hello):
            raise EvaluatorError(f"worker {self.worker} did not introduce itself")
        self.hello = hello
        self.pool.hellos.put(hello)

    def _evaluate(self, job: _Job) -> None:
        number = next(self.pool.numbers)
        request = msgspec.structs.replace(job.left, number=number)
        self._channel.send(msgspec.json.encode(request))
        while True:
            message = _decode.decode(self._channel.receive(timeout=SILENCE_LIMIT_S))
            match message:
                case Progress(text=text):
                    self.doing = text
                case Answer(number=answered, evaluation=evaluation) if answered == number:
                    job.futures[evaluation.shape].set_result(evaluation)
                case Finished(number=answered) if answered == number:
                    return
                case Failure(reason=reason):
                    job.fail(EvaluatorError(reason))
                    return


class Pool:
    """Evaluates requests on its workers; implements Evaluator.

    The workers of a host deal its devices among themselves, in the order of their specs, beginning with `first_device`.
    """

    def __init__(self, specs: Sequence[str], *, layers: bool = True, first_device: int = 0) -> None:
        self.layers = layers
        self.closed = False
        self.numbers = itertools.count(1)
        self.hellos: queue.Queue[Hello] = queue.Queue()
        self._jobs: queue.PriorityQueue[tuple[int, int, _Job | None]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._closing = threading.Lock()
        self._workers = [
            _Worker(
                self, spec, f"gw{index}", device=first_device + [place(x) for x in specs[:index]].count(place(spec))
            )
            for index, spec in enumerate(specs)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, request: EvaluationRequest, *, urgent: bool = False) -> Mapping[str, Future[Evaluation]]:
        job = _Job(request)
        self.put(job, urgent=urgent)
        return job.futures

    def put(self, job: _Job, *, urgent: bool) -> None:
        """Queue a job; once the pool is closed nobody would take it, so it fails at once."""
        with self._closing:
            if not self.closed:
                self._jobs.put((0 if urgent else 1, next(self._order), job))
                return
        job.fail(EvaluatorError("the run is ending"))

    def take(self) -> _Job | None:
        """The next job for a worker; None when the pool is closed."""
        _, _, job = self._jobs.get()
        if job is None or self.closed:
            self._jobs.put((-1, next(self._order), None))
            if job is not None:
                job.fail(EvaluatorError("the run is ending"))
            return None
        return job

    def doing(self) -> str:
        busy = [worker.doing for worker in self._workers if worker.doing != "idle"]
        return "; ".join(busy) or "idle"

    def sandbox(self) -> str:
        hellos = [worker.hello for worker in self._workers if worker.hello]
        return hellos[0].sandbox if hellos else ""

    def close(self) -> None:
        with self._closing:
            self.closed = True
            self._jobs.put((-1, next(self._order), None))
        for worker in self._workers:
            worker.drop()
        for worker in self._workers:
            worker.join(timeout=5.0)
        while not self._jobs.empty():
            _, _, job = self._jobs.get_nowait()
            if job is not None:
                job.fail(EvaluatorError("the run is ending"))


def place(spec: str) -> str:
    """The host that a gateway spec names, as it names it; "" for this one."""
    keys = dict(part.partition("=")[::2] for part in spec.split("//"))
    if "ssh" in keys:
        return keys["ssh"]
    return keys["socket"].rpartition(":")[0] if "socket" in keys else ""


def _without_secrets() -> str:
    """The part of a gateway spec that blanks what looks like a key, so that nothing a worker starts inherits it.

    The worker's own initial environment keeps it; a confined kernel cannot read that.
    """
    secret = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
    return "".join(f"//env:{name}=" for name in os.environ if secret.search(name))


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
