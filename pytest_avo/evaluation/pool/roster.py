"""The workers of a pool: awaited, ready, lost or refused, all of one kind of device; and what is told of them."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.fingerprint import Fingerprint, differences_in_kind
from pytest_avo.evaluation.pool.gateway import WorkerRefused
from pytest_avo.evaluation.pool.jobs import Jobs
from pytest_avo.evaluation.worker_messages import Hello

State = Literal["new", "connecting", "ready", "lost", "refused"]


@dataclass(slots=True, eq=False)
class Member:
    """A worker as the roster has it. Its introduction is kept when it is lost."""

    label: str
    state: State = "new"
    reason: str = ""
    hello: Hello | None = None


class Roster:
    """The members in the order of their specs. With none left, jobs are refused.

    All are of one kind: of `kind`, or, where that is None, of that of the first in the order of the specs that can be
    reached. Others are refused, so that no two figures of a run come from different kinds of device.
    """

    def __init__(self, jobs: Jobs, *, required: Sequence[str], kind: Fingerprint | None) -> None:
        """required: layers of confinement without which a worker is refused."""
        self._jobs = jobs
        self._required = required
        self._kind = kind
        self._members: list[Member] = []
        self._news: queue.Queue[str] = queue.Queue()
        self._changed = threading.Condition()

    def enrol(self, label: str) -> Member:
        """Expect one more worker."""
        member = Member(label)
        self._members.append(member)
        return member

    def expect(self, member: Member) -> None:
        """A worker is being connected, for the first time or again."""
        with self._changed:
            member.state = "connecting"
            self._jobs.accept()

    def admit(self, member: Member, hello: Hello) -> None:
        """Take a worker in; Refused when it is of another kind than the run's, or confines kernels too little."""
        member.hello = hello
        missing = [layer for layer in self._required if layer not in hello.sandbox]
        if missing:
            raise WorkerRefused(f"--avo-sandbox=require: the host does not offer {', '.join(missing)}")
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._kind is not None or self._jobs.closed or self._is_first(member))
            if self._kind is None:
                self._kind = hello.fingerprint
            if found := differences_in_kind(self._kind, hello.fingerprint):
                raise WorkerRefused(f"its device is of another kind than the run's ({'; '.join(found)})")
            member.state, member.reason = "ready", ""
            self._changed.notify_all()

    def out(self, member: Member, state: Literal["lost", "refused"], reason: str) -> None:
        """A worker cannot be used, for now or at all; with nobody left, what is queued fails."""
        if self._jobs.closed:
            return
        fate = f"{state}: {reason}"
        if member.reason != fate:
            self.tell(f"worker {member.label} is {fate}")
        with self._changed:
            member.state, member.reason = state, fate
            self._changed.notify_all()
            if all(each.state in ("lost", "refused") for each in self._members):
                self._jobs.refuse(self._nobody())

    def first_ready(self) -> Hello:
        """Wait until no worker is awaited; the first that is ready introduces itself. EvaluatorError without any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_awaited())
            for member in self._members:
                if member.state == "ready" and member.hello is not None:
                    return member.hello
        raise self._nobody()

    def tell(self, text: str) -> None:
        """Keep a piece of news for the run to show."""
        self._news.put(text)

    def news(self) -> list[str]:
        """What was told since this was asked last."""
        found = []
        while not self._news.empty():
            found.append(self._news.get_nowait())
        return found

    def dismiss(self) -> None:
        """Let go whoever waits for a worker: the jobs are closed."""
        with self._changed:
            self._changed.notify_all()

    def _is_awaited(self) -> bool:
        return not self._jobs.closed and any(member.state in ("new", "connecting") for member in self._members)

    def _is_first(self, member: Member) -> bool:
        """Whether all before this one in the order of the specs are out."""
        earlier = itertools.takewhile(lambda other: other is not member, self._members)
        return all(other.state in ("lost", "refused") for other in earlier)

    def _nobody(self) -> EvaluatorError:
        fates = "; ".join(f"{member.label}: {member.reason}" for member in self._members)
        return EvaluatorError(f"no worker is left: {fates}")
