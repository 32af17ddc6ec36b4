"""Arguments that are exchanged while a slice runs: who answers a call before it is made answers another one.

A request names the arguments of all its calls, which lie in memory when the first call is made: a kernel that looks for
them answers all together, as no model could have it do. So in some slices, which nothing tells from timed ones, a row
of the arguments of calls that are still to come is changed while another call is being made. An honest kernel reads it
as it is when the call is made. Nobody is told: no signal, no request, and whoever compares arguments with those that it
has answered reads all of them once more.

A call has not been made as long as a part of the result before it is missing, since results are delivered one after the
other. That is looked at after the change. On a busy machine the judge comes too late, and such a change says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch

from pytest_avo.evaluation.arms.arm import Meanwhile, Slice
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.faults import KernelFault
from pytest_avo.evaluation.arms.memory import Memory
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.nudge import Followed, copied, followed

LOOKED_AT = 4
"""Elements of every result, drawn anew for each slice: a kernel cannot have those alone ready."""
ACTS = 3
"""Times in a slice at which arguments are exchanged: at one of them a kernel has read what it answers later."""
MOST_CHANGES = 3
"""At one time, beside the call that comes next: each is a write into memory that a kernel is reading, and a check."""
FACTOR = -4.0
"""On a row: a key that a query follows loses its weight, or is followed by others, or has another value."""
FOLLOWED_SHARE = 0.3
"""Of the keys that are changed, those that a query follows most, where every change shows. A kernel that has answered
knows which these are, and would compare no others."""
WITHIN = (0.05, 0.95)
"""Of the time that a slice takes, when arguments are exchanged."""
_MISSING = -1
"""What poisoned memory holds, as a whole number."""


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """One row of a call's arguments: as the judge has it, where the kernel finds it, as it was, and what follows it."""

    call: int
    name: str
    index: tuple[int, int, int]
    original: torch.Tensor
    place: torch.Tensor
    earlier: torch.Tensor
    at: Followed


class ArgumentExchange:
    """Of one slice on inputs that nobody else is given; `act` while it runs, `fault` when it is over."""

    def __init__(self, batch: Batch, given: Memory, result: Memory, random: Random) -> None:
        """given, result: the memory of the process that is asked."""
        self._batch = batch
        self._random = random
        self._result = result
        calls = range(1, len(batch.arguments))
        self._left = [[found for call in calls if (found := _change(batch, call, given, random))] for _ in range(ACTS)]
        elements = [[random.randrange(x.q.numel()) for _ in range(LOOKED_AT)] for x in batch.arguments]
        self._looked_at = batch.result_elements(elements)
        self._seen: list[torch.Tensor] = []
        self._made: list[_Change] = []
        """In the order in which they were made."""
        self._late: set[int] = set()
        """Calls that may have been made while their arguments were exchanged: whatever they answer says nothing."""

    @property
    def was_in_time(self) -> bool:
        """Whether a call was still to come whose arguments were exchanged."""
        return any(change.call not in self._late for change in self._made)

    def meanwhile(self, slice_s: float) -> Meanwhile:
        """When to act in a slice that takes so many seconds."""
        first, last = WITHIN
        width = (last - first) / ACTS
        return Meanwhile([(first + width * (i + self._random.random())) * slice_s for i in range(ACTS)], self.act)

    def act(self) -> None:
        """Exchange arguments of calls that are still to come; ACTS times at most."""
        seen = self._results()
        present = [*(seen != _MISSING).all(1).tolist(), False].index(False)
        left = [change for change in self._left.pop() if change.call > present]
        chosen = left[:1] + self._random.sample(left[1:], k=min(MOST_CHANGES, max(0, len(left) - 1)))
        for change in chosen:
            change.earlier.copy_(change.original)
            change.original.mul_(FACTOR)
            change.place.copy_(change.original)
        missing = (self._results() == _MISSING).any(1).tolist()
        self._seen.append(seen)
        self._made += chosen
        self._late |= {change.call for change in chosen if not missing[change.call - 1]}

    def fault(self, found: Slice) -> KernelFault | None:
        """What is wrong with what was answered, or None."""
        final = self._results()
        if any(bool(((seen != _MISSING) & (seen != final)).any()) for seen in self._seen):
            return KernelFault("rejected", "changed a result that was there before")
        for change in self._made:
            if change.call in self._late:
                continue
            inputs, out = self._batch.arguments[change.call], found.output(change.call)
            assert isinstance(inputs, Inputs)
            if not (said := change.at.fault(inputs, out)):
                continue
            if change.at.fault(self._as_before(inputs, change), out):
                return KernelFault("incorrect", f"{said} (a timed call)")
            return KernelFault("rejected", "answered a call before it was made, by the arguments that it had then")
        return None

    def _results(self) -> torch.Tensor:
        """The elements that are looked at, as they are now: (calls, LOOKED_AT)."""
        return self._batch.result_words(self._result)[self._looked_at]

    def _as_before(self, inputs: Inputs, change: _Change) -> Inputs:
        """The arguments of a call as they were when it was not made yet."""
        tensors = dict(zip("qkv", map(copied, inputs.tensors), strict=True))
        for later in reversed(self._made[self._made.index(change) :]):
            if later.call == change.call:
                tensors[later.name][later.index] = later.earlier
        return replace(inputs, q=tensors["q"], k=tensors["k"], v=tensors["v"])


def _change(batch: Batch, call: int, given: Memory, random: Random) -> _Change | None:
    """The row to change in a call's arguments; None where no query sees a key."""
    inputs = batch.arguments[call]
    assert isinstance(inputs, Inputs)
    if (at := followed(inputs, random)) is None:
        return None
    name = random.choice("qkv")
    index = at.index(name, at.key if random.random() < FOLLOWED_SHARE else random.randrange(at.visible))
    original = getattr(inputs, name)[index]
    return _Change(
        call=call,
        name=name,
        index=index,
        original=original,
        place=batch.row(given, call, name, index),
        earlier=torch.empty_like(original),
        at=at,
    )
