"""The side of a spool that has the device: takes requests, has them evaluated, writes the answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from pytest_avo import __version__
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, Subject
from pytest_avo.evaluation.evaluator import PREPARED, Evaluator
from pytest_avo.evaluation.spool.folder import Patience, SpoolFolder
from pytest_avo.evaluation.spool.heartbeats import BEAT_S, LEASE_S, Fate, Heartbeat, Watch
from pytest_avo.evaluation.spool.notes import Ask, Introduction, RequestClaim, SpoolReply, is_ticket
from pytest_avo.evaluation.worker_messages import Hello

LOOK_S = 1.0
"""How often the folder is looked into: every look is a few requests to a file server."""
STEP_S = 0.05
LINGER_S = 5.0
"""Wait for so long after an answer, since a quick operator asks the next question right away."""
TRIES = 8
"""Servers that one request may lose, killed with its claim: then it is the request."""


@dataclass(slots=True)
class ClaimedRequest:
    """A request that this server has claimed."""

    ask: Ask
    pending: dict[str, Future[Evaluation]]
    """Shape id -> what is not answered yet."""
    since: float


@dataclass(slots=True)
class Served:
    """What a server did, and why it ended."""

    requests: int = 0
    evaluations: int = 0
    left: int = 0
    """Requests that it could have answered, and that nobody has."""
    ended: str = ""
    broken: bool = False
    """Whether it ended because no worker was left."""
    not_for_us: dict[str, str] = field(default_factory=dict)
    """Request -> why this server must not answer it."""


class Server:
    """Serves a spool until nothing is left, or its time is up.

    It claims no more than its evaluator has workers, so that another server finds something to do too, and little is
    lost when it is killed; where workers do something for what they are asked next, so much more. Every shape is
    answered as soon as it is known.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        evaluator: Evaluator,
        hello: Hello,
        *,
        workers: int,
        say: Callable[[str], None],
        beat_s: float = BEAT_S,
        lease_s: float = LEASE_S,
        linger_s: float = LINGER_S,
    ) -> None:
        """hello: of one of its workers, which are all of one kind."""
        self._folder = folder
        self._evaluator = evaluator
        self._hello = hello
        self._most = workers * (1 + PREPARED if hello.looks_ahead else 1)
        self._say = say
        self._patience = Patience(folder.path, say)
        self._heart = Heartbeat(folder, beat_s=beat_s)
        self._watch = Watch(folder, lease_s=lease_s)
        self._asks: dict[str, Ask] = {}
        self._jobs: list[ClaimedRequest] = []
        self._baseline: Subject | None = None
        self._linger_s = linger_s
        self._longest_s = 0.0
        self._linger_until = 0.0
        self._undecided = False
        self.served = Served()

    @property
    def name(self) -> str:
        """What claims and answers call it."""
        return self._heart.server

    def introduce(self) -> None:
        """Say what kind of device is here, which those who ask must know first."""
        hello = self._hello
        introduction = Introduction(__version__, hello.host, hello.fingerprint, hello.peers, hello.sandbox)
        if self._folder.publish("devices", f"{hello.fingerprint.kind}-{__version__}.json", introduction):
            self._linger_until = time.monotonic() + self._linger_s  # a run may have waited for it

    def serve(self, *, for_s: float = math.inf, idle: Callable[[str], None] = lambda _: None) -> Served:
        """Blocks. idle: called again and again with what is being done."""
        self._heart.start()
        deadline = time.monotonic() + for_s
        next_look = 0.0
        try:
            while not self.served.ended:
                self._answer()
                now = time.monotonic()
                if now >= deadline:
                    self.served.ended = "its time is up"
                elif not self.served.ended and (now >= next_look or (self._asks and len(self._jobs) < self._most)):
                    if now >= next_look:
                        self._look()
                        next_look = now + LOOK_S
                    self._take(left_s=deadline - now)
                    if not self._jobs and not self._undecided and not self.served.ended and now > self._linger_until:
                        self.served.ended = "nothing is left"
                idle(self._evaluator.doing())
                time.sleep(STEP_S)
        finally:
            self.served.left = len(self._asks)
            self._heart.end()
        return self.served

    # ---- requests

    def _look(self) -> None:
        """Read requests that are new, forget those that are gone."""
        names = self._folder.names("requests")
        self._asks = {name: ask for name, ask in self._asks.items() if name in names}
        for name in names - self._asks.keys() - self.served.not_for_us.keys():
            ask = self._folder.read("requests", name, Ask)
            if ask is None:
                continue
            if reason := self._why_not(ask, name):
                self.served.not_for_us[name] = reason
                self._say(f"request {name[:8]} is left alone: {reason}")
            else:
                self._asks[name] = ask

    def _why_not(self, ask: Ask, name: str) -> str:
        hello = self._hello
        shapes = [shape.id for shape in ask.request.shapes]
        if ask.id != name or sorted(ask.tickets) != sorted(shapes) or not all(map(is_ticket, ask.tickets.values())):
            return "it is none that a run wrote"  # names in it are those of files that are written and removed
        if ask.version != __version__:
            return f"it is of pytest-avo {ask.version}, this is {__version__}"
        if ask.kind != hello.fingerprint.kind:
            return f"it is for another kind of device than {hello.fingerprint.device}"
        missing = [layer for layer in ask.required if layer not in hello.sandbox]
        return f"it requires {', '.join(missing)}, which this machine does not offer" if missing else ""

    def _waiting(self) -> list[Ask]:
        """Requests that no worker here is at work on, best first: those whose kernels have processes already."""
        mine = {job.ask.id for job in self._jobs}
        waiting = [ask for ask in self._asks.values() if ask.id not in mine]
        return sorted(waiting, key=lambda ask: (ask.request.baseline != self._baseline, ask.order, ask.id))

    def _take(self, *, left_s: float) -> None:
        """Claim as many requests as workers can be busy with, and begin with them."""
        self._undecided = False
        claims = self._folder.last_claims()
        for ask in self._waiting():
            if len(self._jobs) >= self._most:
                return
            answered = self._folder.names("answers")
            if answered.issuperset(ask.tickets.values()):
                self._finish(ask)  # brought home from elsewhere, or left behind by a server that was killed
                continue
            if left_s < self._longest_s:
                if not self._jobs:
                    self.served.ended = "the time left is shorter than a request took"
                return
            number = claims.get(ask.id, 0) + 1
            fates = [self._fate(ask, earlier) for earlier in range(1, number)]
            if fates and fates[-1] not in ("ended", "lost"):
                self._undecided |= fates[-1] == "unknown"
                continue
            try:
                claimed = self._folder.publish("claims", f"{ask.id}.{number}", RequestClaim(self.name))
            except OSError as error:
                self._patience.failed(error)
                self._undecided = True
                return
            self._patience.succeeded()
            if claimed:
                self._begin(ask, number, lost=fates.count("lost"))

    def _fate(self, ask: Ask, number: int) -> Fate:
        """What became of the holder of a claim."""
        claim = self._folder.read("claims", f"{ask.id}.{number}", RequestClaim)
        return self._watch.fate(claim.server if claim is not None else "nobody")

    def _begin(self, ask: Ask, number: int, *, lost: int) -> None:
        # Another server may have finished it between the look and the claim.
        if self._folder.read("requests", ask.id, Ask) is None:
            self._folder.remove("claims", f"{ask.id}.{number}")
            self._asks.pop(ask.id, None)
            return
        answered = self._folder.names("answers")
        shapes = tuple(shape for shape in ask.request.shapes if ask.tickets[shape.id] not in answered)
        if not shapes:
            self._finish(ask)
            return
        if lost >= TRIES:
            futures: Mapping[str, Future[Evaluation]] = {shape.id: Future() for shape in shapes}
            for future in futures.values():
                future.set_exception(EvaluatorError(f"{lost} servers were lost while they evaluated it"))
        else:
            futures = self._evaluator.submit(msgspec.structs.replace(ask.request, shapes=shapes))
        self._baseline = ask.request.baseline
        self._jobs.append(ClaimedRequest(ask, dict(futures), time.monotonic()))

    # ---- answers

    def _answer(self) -> None:
        """Write what has become known; what cannot be written now is written later."""
        for line in self._evaluator.news():
            self._say(line)
        for job in list(self._jobs):
            for shape, future in list(job.pending.items()):
                if future.done():
                    if not self._publish(job.ask.tickets[shape], future):
                        return
                    del job.pending[shape]
            if not job.pending:
                self._jobs.remove(job)
                self._linger_until = time.monotonic() + self._linger_s
                self._longest_s = max(self._longest_s, time.monotonic() - job.since)
                self.served.requests += 1
                self._finish(job.ask)

    def _publish(self, ticket: str, future: Future[Evaluation]) -> bool:
        error = future.exception()
        if error is None:
            reply = SpoolReply(self.name, evaluation=future.result())
        elif all(work.fate for work in self._evaluator.work()):
            self.served.ended, self.served.broken = str(error), True  # the machine's fault: another server may do it
            return False
        else:
            reply = SpoolReply(self.name, failure=str(error))
        try:
            self._folder.publish("answers", ticket, reply)
        except OSError as failed:
            self._patience.failed(failed)
            return False
        self._patience.succeeded()
        self.served.evaluations += error is None
        return True

    def _finish(self, ask: Ask) -> None:
        self._folder.drop_request(ask.id)
        self._asks.pop(ask.id, None)
