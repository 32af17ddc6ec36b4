"""What comes before a race's rounds: untimed slices of every arm, and how many calls make a slice.

An arm's first calls build and load what they need, touch memory, and on a GPU are captured in a graph, which belongs to
so many calls. So there their number is kept from race to race: the next kernel's slices are captured once, and those of
arms that stay, not again: their first slice of a race tells how long they take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.arm import Arm, Slice
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.room import Room
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.race.samples import calls_in_slice

NEAR = 1.3
"""The number of calls in a slice is kept while slices of so many say that it is right within this factor."""
MOST_LOOKS = 4
"""At slices on a GPU, until they say that their number of calls is right: another process that opens or closes its
context meanwhile holds up all others for tenths of a second, and a slice of four calls of 13 us tells nothing."""
AskSlice = Callable[[Shape, str, Arm, list[Inputs]], Slice]
"""A slice of an arm on a shape."""


class WarmUp:
    """Of one race; all arms alike, on fresh arguments as timed calls have: a kernel must not know when it counts."""

    def __init__(
        self,
        *,
        place: str,
        room: Room,
        ask: AskSlice,
        draw: Callable[[Shape, int], list[Inputs]],
        known: MutableMapping[str, int],
    ) -> None:
        """known: how many calls made a slice of a shape last time, by its id; what is found is written there.

        place: kind of torch device, "cpu" or "cuda". draw: fresh inputs of so many calls.
        """
        self._place = place
        self._room = room
        self._ask = ask
        self._draw = draw
        self._known = known
        self._captured: dict[str, dict[str, float]] = {}
        """Seconds of a call of those arms whose first slice was captured in an earlier race, by shape."""

    def first_calls(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> None:
        """A call of every arm, or on a GPU a slice where it is known how many make one. calls: that, 0 if not yet."""
        self._every(shape, arms, 1 if self._place == "cpu" else calls or self._known.get(shape.id, 1))

    def further_calls(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> int:
        """What is left to warm up after first calls; returns how many calls make a slice, which `calls` is if known."""
        if self._place == "cuda":
            return calls or self._calls_of_graphs(shape, arms)
        is_known = calls > 0
        calls = calls or self._suggested(shape, arms, 1)
        if calls > 1 or is_known:
            # The empty arm has been asked, and keeps its process.
            self._every(shape, {name: arm for name, arm in arms.items() if name != EMPTY}, calls)
        return calls

    def _calls_of_graphs(self, shape: Shape, arms: Mapping[str, Arm]) -> int:
        """How many calls make a slice on a GPU.

        A single one drowns in what asking for it takes; a slice of as many as it suggests tells better.
        """
        if (calls := self._known.get(shape.id, 0)) == 0:
            calls = self._suggested(shape, arms, 1)
            self._every(shape, arms, calls)  # captured now, which the next one is not
        for _ in range(MOST_LOOKS):
            found = self._suggested(shape, arms, calls)
            if 1 / NEAR <= found / calls <= NEAR:
                break
            calls = found
            self._every(shape, arms, calls)
        self._known[shape.id] = calls
        return calls

    def _suggested(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> int:
        """Have every arm make so many calls, unless it has, which tells how many make a slice."""
        batch, seconds = self._draw(shape, calls), dict(self._captured.get(shape.id, {}))
        for name in [name for name in arms if name not in seconds]:
            seconds[name] = self._ask(shape, name, arms[name], batch).seconds / calls
        overhead = seconds.pop(EMPTY, 0.0)
        fewest = calls_in_slice(seconds.values(), overhead, slice_s=self._room.slice_s, place=self._place)
        return min(self._room.max_calls(shape), fewest)

    def _every(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> None:
        batch, found = self._draw(shape, calls), dict[str, float]()
        for name, arm in arms.items():
            asked = self._ask(shape, name, arm, batch)
            if asked.is_captured:
                found[name] = asked.seconds / calls
        self._captured[shape.id] = found
