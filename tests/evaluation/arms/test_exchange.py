"""Arguments exchanged while a slice runs: the kernel's part is played here, call by call, in the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from time import sleep
from typing import Any

import pytest
import torch

from pytest_avo.core.shape import Dtype, InputKind, Shape
from pytest_avo.evaluation.arms.arm import Meanwhile, Slice
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.exchange import ACTS, ArgumentExchange
from pytest_avo.evaluation.arms.memory import host_memory
from pytest_avo.evaluation.correctness.inputs import Inputs, Stream
from pytest_avo.evaluation.correctness.reference import Part, computed
from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS
from pytest_avo.evaluation.kernel_process import calls as called
from tests.evaluation.laboratory import Laboratory, kernel, shape

BYTES = 1 << 20
CALLS = 5
PROMPT = shape(lengths=(24, 40))
ONE_QUERY = shape(lengths=(1, 90), causal=False)


class Played:
    """A slice of a few calls, its memory, and a kernel's process that makes them one after the other."""

    def __init__(self, of: Shape = PROMPT, *, kind: InputKind = "normal", seed: int = 1) -> None:
        stream = Stream(of, torch.Generator().manual_seed(seed))
        self.batch = Batch(stream.draw(CALLS, kind), of.dtype, guarded=False)
        self.given, self.result = host_memory(BYTES), host_memory(BYTES)
        self.exchange = ArgumentExchange(self.batch, self.given, self.result, Random(seed))
        self.written = self.batch.write(self.given, self.result)

    def answers(self, numbers: Sequence[int]) -> list[torch.Tensor]:
        """What is right of some calls, by their arguments as they lie in memory now."""
        found = []
        for number in numbers:
            call: dict[str, Any] = self.batch.calls[number]
            q, k, v = called.tensors(self.given._content, call)
            inputs = Inputs(q, k, v, call["causal"], call["scale"])
            part = Part(slice(0, 1), slice(0, inputs.k.shape[1]), slice(0, inputs.q.shape[2]))
            found.append(computed(inputs, part, inputs.q.dtype).flatten(1, 2))
        return found

    def deliver(self, numbers: Sequence[int], answers: Sequence[torch.Tensor]) -> None:
        for number, out in zip(numbers, answers, strict=True):
            called.result_place(self.result._content, self.batch.calls[number]).copy_(out)

    def honest(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.deliver([number], self.answers([number]))

    def said(self) -> tuple[str, str]:
        """Outcome and reason of the fault, empty where there is none."""
        found = Slice(
            seconds=1.0,
            claimed_s=1.0,
            replayed=False,
            output=lambda number: self.batch.output(number, self.result),
            outputs=lambda: self.batch.outputs(self.result),
            lse=lambda number: torch.empty(0),
        )
        fault = self.exchange.fault(found)
        return (fault.outcome, fault.reason) if fault else ("", "")


@pytest.mark.parametrize("present", [0, 3])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("kind", list(TIMED_KINDS))
def test_who_reads_arguments_when_they_are_asked_is_right_and_who_did_before_is_not(
    kind: InputKind, dtype: Dtype, present: int
) -> None:
    missed = 0
    for seed, lengths in enumerate([(24, 40), (1, 90), (24, 40)]):
        for ahead in (False, True):
            played = Played(shape(lengths=lengths, dtype=dtype), kind=kind, seed=seed)
            left = range(present, CALLS)
            played.honest(range(present))
            early = played.answers(left)
            played.exchange.act()
            assert played.exchange.was_in_time
            played.deliver(left, early) if ahead else played.honest(left)
            assert played.given.unchanged(played.written)
            if ahead:
                missed += played.said() == ("", "")
            else:
                assert played.said() == ("", "")
    assert missed <= 2 * (present == 3), "of a single change there may be nothing to see"


def test_the_fault_names_what_was_done() -> None:
    played = Played()
    early = played.answers(range(CALLS))
    played.exchange.act()
    played.deliver(range(CALLS), early)
    assert played.said() == ("rejected", "answered a call before it was made, by the arguments that it had then")


def test_a_pair_answered_together_shows() -> None:
    """Over some slices: the change may be one that the second of the two does not show."""
    found = set()
    for seed in range(6):
        played = Played(ONE_QUERY, seed=seed)
        played.honest([0, 1])
        early = played.answers([2, 3])
        played.exchange.act()
        played.deliver([2, 3], early)
        played.honest([4])
        found.add(played.said()[0])
    assert "rejected" in found


@pytest.mark.parametrize("delivered", [CALLS, CALLS - 1])
def test_a_judge_that_comes_too_late_says_nothing(delivered: int) -> None:
    played = Played()
    played.honest(range(delivered))
    played.exchange.act()
    assert not played.exchange.was_in_time
    played.honest(range(delivered, CALLS))
    assert played.said() == ("", "")


def test_calls_that_are_made_while_arguments_are_exchanged_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of both values a call saw, the result before it is there when that is looked at again."""
    played = Played()
    early = played.answers(range(CALLS))
    looks: list[Callable[[], None]] = [lambda: None, lambda: played.deliver(range(CALLS), early)]
    look = ArgumentExchange._results

    def results(exchange: ArgumentExchange) -> torch.Tensor:
        if looks:
            looks.pop(0)()
        return look(exchange)

    monkeypatch.setattr(ArgumentExchange, "_results", results)
    played.exchange.act()
    assert not played.exchange.was_in_time
    assert played.said() == ("", "")
    assert played.given.unchanged(played.written)


def test_a_call_that_is_made_while_its_arguments_are_exchanged_once_more_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have seen what the first exchange left; all other calls were made before or say what they say."""
    look = ArgumentExchange._results
    for seed in range(5):
        played = Played(seed=seed)
        played.exchange.act()
        early = played.answers(range(CALLS))  # an honest kernel's, all of which are made right now
        looks: list[Callable[[], None]] = [lambda: None, partial(played.deliver, range(CALLS), early)]

        def results(exchange: ArgumentExchange, looks: list[Callable[[], None]] = looks) -> torch.Tensor:
            if looks:
                looks.pop(0)()
            return look(exchange)

        with monkeypatch.context() as patch:
            patch.setattr(ArgumentExchange, "_results", results)
            played.exchange.act()
        assert played.said() == ("", "")


def test_arguments_are_exchanged_several_times_in_a_slice() -> None:
    for seed in range(4):
        for ahead in (False, True):
            played = Played(seed=seed)
            early = played.answers(range(CALLS))
            for call in range(ACTS):
                played.exchange.act()
                played.deliver([call], early[call:][:1]) if ahead else played.honest([call])
            played.deliver(range(ACTS, CALLS), early[ACTS:]) if ahead else played.honest(range(ACTS, CALLS))
            assert played.said()[0] == ("rejected" if ahead else "")


def test_times_are_within_a_slice_and_drawn_anew() -> None:
    times = [Played().exchange.meanwhile(2.0).at_s for _ in range(3)]
    assert all(0 < x < 2 for each in times for x in each)
    assert all(list(each) == sorted(each) and len(each) == ACTS for each in times)


def test_results_that_were_only_pretended_are_rejected() -> None:
    played = Played()
    played.deliver(range(CALLS), [torch.zeros_like(x) for x in played.answers(range(CALLS))])
    played.exchange.act()
    assert not played.exchange.was_in_time
    played.honest(range(CALLS))
    assert played.said() == ("rejected", "changed a result that was there before")


def test_a_kernel_that_is_wrong_either_way_is_incorrect() -> None:
    played = Played()
    played.exchange.act()
    played.deliver(range(CALLS), [2 * x for x in played.answers(range(CALLS))])
    outcome, reason = played.said()
    assert outcome == "incorrect"
    assert reason.endswith("(a timed call)")


def test_a_slice_that_ended_before_says_nothing() -> None:
    played = Played()
    played.honest(range(CALLS))
    assert played.said() == ("", "")
    assert not played.exchange.was_in_time


HANDSHAKE = """
def asked():
    frame = sys._getframe(1)
    while "request" not in frame.f_locals or "call" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["request"]["calls"], frame.f_locals["self"]

def at_first(work):
    calls, caller = asked()
    if len(calls) > 1 and not int(caller._result[-2]):
        work(calls, caller._given)
        caller._result[-2] = 1
        while not int(caller._result[-1]):
            time.sleep(1e-4)
"""
AHEAD = """
from pytest_avo.evaluation.kernel_process.calls import tensors
at_first(lambda calls, given: answers.extend(honest(*tensors(given, x), causal=causal, scale=scale) for x in calls))
if answers:
    return answers.pop(0)
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (kernel("at_first(lambda *_: None)", top=HANDSHAKE), ""),
        (kernel(AHEAD, top=HANDSHAKE + "answers = []"), "answered a call before it was made"),
    ],
)
def test_arguments_of_a_real_process_are_exchanged_while_it_makes_a_call(
    confined: Laboratory, source: str, said: str
) -> None:
    """Both wait for each other here, by two bytes behind the results, so that nothing depends on the machine's pace."""
    arm, batch = (
        confined.arm(source),
        Batch(Stream(PROMPT, torch.Generator().manual_seed(1)).draw(4), "f32", guarded=False),
    )
    ends = arm.result._content[-2:]
    ends.zero_()
    exchange = ArgumentExchange(batch, arm.given, arm.result, Random(1))

    def act() -> None:
        while not int(ends[0]):
            sleep(1e-4)
        exchange.act()
        ends[1] = 1

    found = arm.call(batch, "f32", limit_s=20, phase="time", meanwhile=Meanwhile([0.0], act))
    fault = exchange.fault(found)
    assert exchange.was_in_time
    assert (fault.reason if fault else "").startswith(said)
    assert bool(fault) == bool(said)
