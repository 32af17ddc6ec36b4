"""The side of a spool that asks: an evaluator whose devices are wherever the folder is served."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import msgspec

from pytest_avo import __version__
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.spool.folder import Patience, SpoolFolder
from pytest_avo.evaluation.spool.heartbeats import LEASE_S, Watch
from pytest_avo.evaluation.spool.jobs import BatchJobs
from pytest_avo.evaluation.spool.notes import Ask, RequestClaim, SpoolReply, digest, ticket

QUICK_S, SLOW_S = 0.05, 2.0
"""How often answers are looked for: right after something happened, and when nothing does."""
MISSING_S = 150.0
"""A request that somebody removed is asked again after so long; file servers may show a removal before the answer."""


@dataclass(slots=True)
class KnownServer:
    """What one server answered."""

    device: str = ""
    evaluations: int = 0
    busy_s: float = 0.0


@dataclass(slots=True)
class Waiting:
    """A request whose answers are awaited."""

    ask: Ask
    written: bool
    seen: float = field(default_factory=time.monotonic)
    """When its file was last there."""


class SpoolClient:
    """Evaluates requests by way of a spool; implements Evaluator.

    The same question of the same run has the same name, whichever process asks it: a resumed run finds what was
    answered while it was away, and nothing is asked twice. It waits for as long as it takes.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        kind: Fingerprint,
        *,
        required: Sequence[str] = (),
        jobs: BatchJobs | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """kind: of the device that is to answer; required: layers without which kernels must not be run."""
        self._folder = folder
        self._kind = kind
        self._required = tuple(required)
        self._jobs = jobs
        self._scope = secrets.token_hex(8)
        self._is_lasting = False
        self._turns: Counter[str] = Counter()
        self._futures: dict[str, Future[Evaluation]] = {}
        self._waiting: dict[str, Waiting] = {}
        self._known: dict[str, Ask] = {}
        self._servers: dict[str, KnownServer] = {}
        self._news: queue.Queue[str] = queue.Queue()
        self._patience = Patience(folder.path, self._news.put)
        self._watch = Watch(folder, lease_s=lease_s)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closed = False
        self._doing = "idle"
        self._thread = threading.Thread(target=self._run, daemon=True, name="avo-spool")
        self._thread.start()

    def continue_run(self, name: str) -> None:
        """What is asked from now on belongs to this run, which may be interrupted and resumed.

        A run without a name takes its requests along when it ends.
        """
        with self._lock:
            self._scope, self._is_lasting = name, True

    # ---- Evaluator

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        futures: dict[str, Future[Evaluation]] = {}
        with self._lock:
            if self._closed:
                raise EvaluatorError("the run is ending")
            tickets = {shape.id: self._ticket(request, shape.id) for shape in request.shapes}
            for shape, name in tickets.items():
                futures[shape] = self._futures[name] = Future()
            self._take_answers()
            self._ask(request, {s: name for s, name in tickets.items() if name in self._futures})
        self._wake.set()
        return futures

    def doing(self) -> str:
        return self._doing

    def news(self) -> list[str]:
        found = []
        while not self._news.empty():
            found.append(self._news.get_nowait())
        return found

    def work(self) -> list[Work]:
        with self._lock:
            return [
                Work(
                    worker=name,
                    host=name.rsplit("-", 2)[0],
                    device=server.device,
                    evaluations=server.evaluations,
                    busy_s=server.busy_s,
                    fate="",
                )
                for name, server in self._servers.items()
            ]

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join(timeout=10.0)
        if self._jobs is not None:
            self._jobs.close()
        with self._lock:
            if not self._is_lasting:
                self._withdraw()
            self._fail(EvaluatorError("the run is ending"))

    # ---- asking

    def _ticket(self, request: EvaluationRequest, shape: str) -> str:
        first = ticket(request, shape, scope=self._scope, kind=self._kind.kind, turn=0)
        turn = self._turns[first]
        self._turns[first] += 1
        if turn == 0:
            return first
        return ticket(request, shape, scope=self._scope, kind=self._kind.kind, turn=turn)

    def _ask(self, request: EvaluationRequest, tickets: dict[str, str]) -> None:
        """Write a request for what neither is answered nor was asked for by this run before it was interrupted."""
        self._learn_requests()
        for ask in self._known.values():
            if covered := {shape for shape, name in tickets.items() if name in ask.tickets.values()}:
                self._waiting.setdefault(ask.id, Waiting(ask, written=True))
                tickets = {shape: name for shape, name in tickets.items() if shape not in covered}
        if not tickets:
            return
        ask = Ask(
            id=digest(sorted(tickets.values())),
            order=time.time_ns(),
            version=__version__,
            kind=self._kind.kind,
            required=self._required,
            tickets=tickets,
            request=_of_shapes(request, tickets),
        )
        self._waiting[ask.id] = Waiting(ask, written=False)
        self._write()

    def _learn_requests(self) -> None:
        names = self._folder.names("requests")
        self._known = {name: ask for name, ask in self._known.items() if name in names}
        for name in names - self._known.keys():
            ask = self._folder.read("requests", name, Ask)
            if ask is not None and ask.kind == self._kind.kind:
                self._known[name] = ask

    def _write(self) -> None:
        """Write the requests that are not on disk yet."""
        for waiting in self._waiting.values():
            if waiting.written:
                continue
            try:
                self._folder.publish("requests", waiting.ask.id, waiting.ask)
            except OSError as error:
                self._patience.failed(error)
                return
            self._patience.succeeded()
            waiting.written, waiting.seen = True, time.monotonic()

    def _withdraw(self) -> None:
        for name in self._waiting.keys() - self._folder.last_claims().keys():
            self._folder.drop_request(name)

    # ---- answers

    def _run(self) -> None:
        pause_s = QUICK_S
        while not self._closed:
            self._wake.clear()
            taken = False
            with self._lock:
                try:
                    taken = self._take_answers()
                    self._write()
                    self._look_after_requests()
                except EvaluatorError as error:
                    self._fail(error)
                except Exception as error:  # nobody may wait for ever because of a mistake in here
                    self._fail(EvaluatorError(f"spool {self._folder.path}: {type(error).__name__}: {error}"))
            pause_s = QUICK_S if taken else min(SLOW_S, pause_s * 1.3)
            if self._wake.wait(pause_s):
                pause_s = QUICK_S

    def _take_answers(self) -> bool:
        """Hand on what is answered by now; whether anything was."""
        if not self._futures:
            return False
        taken = False
        for name in self._folder.names("answers") & self._futures.keys():
            reply = self._folder.read("answers", name, SpoolReply)
            if reply is None:
                continue  # a copy that is not complete yet
            future = self._futures.pop(name)
            taken = True
            server = self._servers.setdefault(reply.server, KnownServer())
            if reply.evaluation is None:
                self._folder.remove("answers", name)  # a resumed run asks again
                _set(future, EvaluatorError(f"{reply.server}: {reply.failure}"))
                continue
            server.device = reply.evaluation.device
            server.evaluations += 1
            server.busy_s += reply.evaluation.seconds
            _set(future, reply.evaluation)
        for waiting in list(self._waiting.values()):
            if not self._futures.keys() & set(waiting.ask.tickets.values()):
                del self._waiting[waiting.ask.id]
                if self._folder.names("answers").issuperset(waiting.ask.tickets.values()):
                    self._folder.drop_request(waiting.ask.id)  # its server did, unless it was answered in a copy
        return taken

    def _look_after_requests(self) -> None:
        """See what becomes of the requests, ask again for what was lost, and start a batch job where one is needed."""
        if not self._waiting:
            self._doing = "idle"
            return
        there, now = self._folder.names("requests"), time.monotonic()
        for waiting in self._waiting.values():
            if waiting.ask.id in there:
                waiting.seen = now
            elif waiting.written and now - waiting.seen > MISSING_S:
                waiting.written, waiting.seen = False, now
        holders = self._holders()
        parts = [f"{len(self._waiting) - len(holders)} wait in {self._folder.path}"]
        parts += [f"{number} with {server}" for server, number in sorted(Counter(holders.values()).items())]
        self._doing = ", ".join(parts)
        if self._jobs is not None:
            live = any(self._watch.fate(name) in ("alive", "unknown") for name in self._folder.names("servers"))
            answered = sum(server.evaluations for server in self._servers.values())
            for line in self._jobs.look(is_served=live, answered=answered):
                self._news.put(line)

    def _holders(self) -> dict[str, str]:
        """Request -> the server that is at work on it, as far as can be told."""
        held: dict[str, str] = {}
        for name, number in self._folder.last_claims().items():
            claim = self._folder.read("claims", f"{name}.{number}", RequestClaim) if name in self._waiting else None
            if claim is not None and self._watch.fate(claim.server) in ("alive", "unknown"):
                held[name] = claim.server
        return held

    def _fail(self, error: EvaluatorError) -> None:
        for future in self._futures.values():
            _set(future, error)
        self._futures.clear()
        self._waiting.clear()


def _set(future: Future[Evaluation], result: Evaluation | EvaluatorError) -> None:
    with contextlib.suppress(InvalidStateError):
        if isinstance(result, EvaluatorError):
            future.set_exception(result)
        else:
            future.set_result(result)


def _of_shapes(request: EvaluationRequest, tickets: Mapping[str, str]) -> EvaluationRequest:
    shapes = tuple(shape for shape in request.shapes if shape.id in tickets)
    return msgspec.structs.replace(request, number=0, shapes=shapes)
