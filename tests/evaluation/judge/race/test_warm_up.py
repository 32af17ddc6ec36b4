"""How many untimed calls come before rounds, and how many calls make a slice of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import pytest

from pytest_avo.evaluation.correctness.room import HOST, gpu_room
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.race.warm_up import WarmUp
from tests.evaluation.laboratory import shape

SHAPE = shape()
ARMS = {"kernel": cast("Any", None), "baseline": cast("Any", None), EMPTY: cast("Any", None)}
ASKING_S = 100e-6


class Bench:
    """Arms whose calls take so many seconds each, and what they were asked."""

    def __init__(
        self,
        place: str,
        call_s: float,
        *,
        single_late_s: float = 0.0,
        known: dict[str, int] | None = None,
        held_up: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """held_up: seconds by which slices of the kernel take longer, by their number."""
        self.single_late_s = single_late_s
        self.held_up = held_up
        self.calls: list[int] = []
        self.others: list[int] = []
        self.captured: set[tuple[str, int]] = set()
        self.call_s = call_s
        self.known = {} if known is None else known
        room = HOST if place == "cpu" else gpu_room(100 << 30)
        ask, draw = cast("Any", self.ask), cast("Any", lambda shape, calls: [None] * calls)
        self.warm_up = WarmUp(place=place, room=room, ask=ask, draw=draw, known=self.known)

    def ask(self, shape: object, name: str, arm: object, batch: list[object]) -> Any:
        (self.calls if name == "kernel" else self.others).append(len(batch))
        late_s = self.single_late_s if len(batch) == 1 else 0.0
        seconds = ASKING_S + (0.0 if name == EMPTY else len(batch) * self.call_s + late_s)
        seconds += self.held_up.get(len(self.calls), 0.0) if name == "kernel" else 0.0
        is_captured = (name, len(batch)) in self.captured
        self.captured.add((name, len(batch)))
        return type("Slice", (), {"seconds": seconds, "is_captured": is_captured})

    def race(self, calls: int = 0) -> int:
        self.calls.clear()
        self.others.clear()
        self.warm_up.first_calls(SHAPE, ARMS, calls)
        return self.warm_up.further_calls(SHAPE, ARMS, calls)


def test_a_slice_on_a_gpu_is_captured_once_where_its_calls_are_known() -> None:
    bench = Bench("cuda", 1e-3)
    assert bench.race() == 10
    assert bench.calls == [1, 1, 10, 10]
    bench.captured.discard(("kernel", 10))
    assert bench.race() == 10
    assert bench.calls == [10, 10], "of the next kernel"
    assert bench.others == [10, 10], "of arms that stay"
    assert bench.race(10) == 10, "of a further launch"
    assert bench.calls == [10]


def test_a_slice_on_a_gpu_is_as_long_as_a_slice_of_its_calls_suggests() -> None:
    bench = Bench("cuda", 1.1e-4, single_late_s=3e-4)  # a single call is hardly more than what asking for it takes
    assert bench.race() == 91
    assert bench.calls == [1, 1, 25, 25, 91, 91]


@pytest.mark.parametrize(("call_s", "calls"), [(0.9e-3, 10), (0.5e-3, 20), (2e-3, 5)])
def test_another_number_is_taken_only_where_slices_would_be_much_too_long_or_too_short(
    call_s: float, calls: int
) -> None:
    bench = Bench("cuda", call_s, known={SHAPE.id: 10})
    assert bench.race() == calls
    assert bench.calls == [10, 10, *([] if calls == 10 else [calls, calls])]
    assert bench.known == {SHAPE.id: calls}


def test_slices_that_were_held_up_are_looked_at_again() -> None:
    bench = Bench("cuda", 13e-6, held_up={2: 0.04, 4: 0.04})  # those that tell how many calls there are
    assert bench.race() == 256
    assert bench.known == {SHAPE.id: 256}


def test_on_a_cpu_a_single_call_comes_first_and_tells_how_many_there_are() -> None:
    bench = Bench("cpu", 1e-3, known={SHAPE.id: 10})
    assert bench.race() == 5
    assert bench.calls == [1, 1, 5]
    assert bench.race(5) == 5
    assert bench.calls == [1, 5]
