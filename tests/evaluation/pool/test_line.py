"""A worker hears of the next requests while it answers one, and of nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.evaluation.pool.line import WorkerLine
from pytest_avo.evaluation.worker_messages import Evaluate, Prepare, Progress, WorkerMessage
from tests.evaluation.laboratory import shape

REQUEST = EvaluationRequest(number=3, subject=Subject("now", ""), shapes=(shape(),))
NEXT = Prepare((Subject("next", ""),), (shape(),))


class Channel:
    """An execnet channel as far as a line uses it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.receive: Callable[[bytes | None], None] = lambda _: None

    def setcallback(self, receive: Callable[[bytes | None], None], *, endmarker: object) -> None:
        self.receive = receive

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def tell(self, order: Evaluate | Prepare) -> None:
        self.receive(msgspec.json.encode(order))


def opened() -> tuple[WorkerLine, Channel, list[Prepare]]:
    channel = Channel()
    prepared: list[Prepare] = []
    line = WorkerLine(channel)

    def end() -> Any:
        raise AssertionError("nothing closes here")

    line.open(end)
    line.prepare = prepared.append
    return line, channel, prepared


def test_what_is_asked_next_is_prepared_between_two_steps_of_an_answer() -> None:
    line, channel, prepared = opened()
    channel.tell(Evaluate(REQUEST))
    assert line.order() == Evaluate(REQUEST)
    line.number = 3
    channel.tell(NEXT)
    line.say("timing")
    line.say("timing on")
    assert prepared == [NEXT]
    said = [msgspec.json.decode(message, type=WorkerMessage) for message in channel.sent]
    assert said == [Progress(3, "timing"), Progress(3, "timing on")]


def test_a_request_that_comes_while_a_worker_rehearses_is_kept() -> None:
    line, channel, prepared = opened()
    for order in (NEXT, Evaluate(REQUEST), NEXT):
        channel.tell(order)
    line.say("checking")
    line.say("checking on")
    assert prepared == [NEXT]
    assert line.has_order(within_s=0.0)
    assert [line.order(), line.order()] == [Evaluate(REQUEST), NEXT]
    assert not line.has_order(within_s=0.0)


def test_an_order_that_was_waited_for_is_kept_and_none_is_made_up() -> None:
    line, channel, _ = opened()
    assert not line.has_order(within_s=0.001)
    channel.tell(Evaluate(REQUEST))
    assert line.has_order(within_s=1.0)
    assert line.has_order(within_s=1.0)
    assert line.order() == Evaluate(REQUEST)
    assert not line.has_order(within_s=0.001)


@pytest.mark.parametrize("prepares", [True, False])
def test_a_worker_that_prepares_nothing_passes_over_what_comes_next(prepares: bool) -> None:
    line, channel, prepared = opened()
    if not prepares:
        line.prepare = None
    channel.tell(NEXT)
    order = line.order()
    assert isinstance(order, Prepare)
    line.begin(order)
    assert prepared == [NEXT] * prepares
