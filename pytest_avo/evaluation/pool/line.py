"""A worker's end of its channel: orders that arrive, messages that leave."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from pytest_avo.evaluation.worker_messages import Prepare, Progress, WorkerMessage, WorkerOrder

SIGN_OF_LIFE_S = 10.0
_decode = msgspec.json.Decoder(WorkerOrder)


class WorkerLine:
    """The worker's end of its channel. A worker that ends sends nothing: kernels that fail then were killed by it."""

    def __init__(self, channel: Any) -> None:
        self.inbox: queue.Queue[bytes] = queue.Queue()
        self.number = 0
        """Number of the request that is being answered."""
        self.prepare: Callable[[Prepare], None] | None = None
        """Told of what is asked next, where something can be done for it."""
        self._channel = channel
        self._next: list[bytes] = []
        self._ending = threading.Event()
        self._sending = threading.Lock()

    def open(self, end: Callable[[], NoReturn]) -> None:
        """Take what arrives; `end` is called when the channel closes, from execnet's receiving thread."""

        def receive(message: bytes | None) -> None:
            if message is not None:
                self.inbox.put(message)
                return
            self._ending.set()
            end()

        self._channel.setcallback(receive, endmarker=None)

    def send(self, message: WorkerMessage) -> None:
        with self._sending:
            if not self._ending.is_set():
                self._channel.send(msgspec.json.encode(message))

    def say(self, text: str) -> None:
        """Tell what is being done. Between two steps of it there is time for what is said of the next request."""
        self.send(Progress(self.number, text))
        while not self._next and not self.inbox.empty():
            message = self.inbox.get()
            order = _decode.decode(message)
            if isinstance(order, Prepare):
                self.begin(order)
            else:  # it ends a rehearsal: no request is sent before the last one is answered
                self._next.append(message)

    def begin(self, order: Prepare) -> None:
        """Begin with what can be done for the next request."""
        if self.prepare is not None:
            self.prepare(order)

    def has_order(self, *, within_s: float) -> bool:
        """Whether something arrives soon; it is kept."""
        if not self._next:
            with contextlib.suppress(queue.Empty):
                self._next.append(self.inbox.get(timeout=within_s))
        return bool(self._next)

    def order(self) -> WorkerOrder:
        """What arrives next, waited for."""
        order: WorkerOrder = _decode.decode(self._next.pop() if self._next else self.inbox.get())
        return order

    def live(self) -> None:
        """Send signs of life, however long a kernel takes: a host that lost its power closes no connection."""
        while not self._ending.wait(SIGN_OF_LIFE_S):
            try:
                self.send(Progress(0, ""))
            except OSError:
                return
