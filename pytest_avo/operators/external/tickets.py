"""Evaluations in flight: each has a ticket, so that a command that is cut off can go on waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field

from pytest_avo.operators.external.wire import RUNNING, Reply
from pytest_avo.report.text import duration


@dataclass(frozen=True, slots=True)
class Ticket:
    """One evaluation, running or done."""

    number: int
    what: str
    key: Hashable
    reply: Future[Reply] = field(default_factory=Future)
    began: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float | None) -> Reply:
        """The reply, or one that says it is still running when the time is over."""
        try:
            return self.reply.result(timeout=seconds)
        except TimeoutError:
            text = f"ticket {self.number} ({self.what}) runs since {duration(time.monotonic() - self.began)}: "
            text += f"wait with ticket {self.number} (`avo wait {self.number}`)"
            return Reply(text=text, status=RUNNING, data={"ticket": self.number})


class Tickets:
    """The tickets of a step. Safe to use from several threads."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._lock = threading.Lock()

    def open(self, key: Hashable, what: str, work: Callable[[], Reply]) -> Ticket:
        """Start work on a thread of its own; work of the same key that still runs is joined instead."""
        with self._lock:
            for ticket in self._tickets:
                if ticket.key == key and not ticket.reply.done():
                    return ticket
            ticket = Ticket(len(self._tickets) + 1, what, key)
            self._tickets.append(ticket)
        threading.Thread(target=_run, args=(ticket, work), daemon=True, name=f"avo-ticket-{ticket.number}").start()
        return ticket

    def find(self, number: int) -> Ticket | None:
        with self._lock:
            return self._tickets[number - 1] if 0 < number <= len(self._tickets) else None

    def running(self) -> list[Ticket]:
        """Tickets of what still runs, oldest first."""
        with self._lock:
            return [ticket for ticket in self._tickets if not ticket.reply.done()]


def _run(ticket: Ticket, work: Callable[[], Reply]) -> None:
    try:
        ticket.reply.set_result(work())
    except BaseException as error:
        ticket.reply.set_exception(error)
