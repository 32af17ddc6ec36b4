"""What comes before a race's rounds: untimed slices of every arm, and how many calls make a slice.

An arm's first calls build and load what they need, touch memory, and on a GPU are captured in a graph, which belongs to
so many calls. So their number is kept from race to race: the next kernel's slices are captured once, those of arms that
stay not again, and on a CPU it need not be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.arm import Arm, Slice
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.room import Room
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.samples import calls_in_slice

NEAR = {"cpu": 1.5, "cuda": 1.3}
"""The number of calls in a slice is kept from an earlier race while it is right within this factor. On a CPU it is
small."""
LEAST_CALLS = 2
"""Of every arm before it is timed."""
BUILDING_S = 0.1
"""Of a first call beyond a later one on the same shape: then something was built, with threads that are gone later."""
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
        self._firsts: dict[tuple[str, str], float] = {}
        """Seconds of the first call of an arm on a shape, by both."""
        self.builds = False
        """Whether an arm built something in its first calls: in new processes of it that may be so again."""

    def first_calls(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> None:
        """A call of every arm, or on a GPU a slice where it is known how many make one. calls: that, 0 if not yet."""
        seconds = self._every(shape, arms, 1 if self._place == "cpu" else calls or self._known.get(shape.id, 1))
        self._firsts |= {(shape.id, name): found_s for name, found_s in seconds.items()}

    def further_calls(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> int:
        """What is left to warm up after first calls; returns how many calls make a slice, which `calls` is if known."""
        if self._place == "cuda":
            return calls or self._calls_of_graphs(shape, arms)
        if calls == 0:
            return self._calls_of_host(shape, arms)
        self._every(shape, arms, calls)
        return calls

    def only_calls(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> None:
        """All that a later launch takes of processes that build nothing: a slice. calls: that make one."""
        self._every(shape, arms, min(max(calls, LEAST_CALLS), self._room.max_calls(shape)))

    def _calls_of_host(self, shape: Shape, arms: Mapping[str, Arm]) -> int:
        """How many calls make a slice on a CPU, which every arm but the empty one has made then, or more.

        So many as were known are kept where more are suggested, not where fewer would do: it is the slices that last.
        """
        asked = self._known.get(shape.id, 1)
        calls = self._suggested(shape, arms, asked)
        if asked <= calls <= NEAR["cpu"] * asked and asked > 1:
            calls = asked
        elif calls > asked:
            # The empty arm has been asked, and keeps its process.
            self._every(shape, {name: arm for name, arm in arms.items() if name != EMPTY}, calls)
        self._known[shape.id] = calls
        return calls

    def _calls_of_graphs(self, shape: Shape, arms: Mapping[str, Arm]) -> int:
        """How many calls make a slice on a GPU.

        A single one drowns in what asking for it takes; a slice of as many as it suggests tells better.
        """
        if (calls := self._known.get(shape.id, 0)) == 0:
            calls = self._suggested(shape, arms, 1)
            self._every(shape, arms, calls)  # captured now, which the next one is not
        found = self._suggested(shape, arms, calls)
        if not 1 / NEAR["cuda"] <= found / calls <= NEAR["cuda"]:
            calls = found
            self._every(shape, arms, calls)
        self._known[shape.id] = calls
        return calls

    def _suggested(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> int:
        """Have every arm make so many calls, which tells how many make a slice."""
        batch = self._draw(shape, calls)
        seconds = {name: self._ask(shape, name, arm, batch).seconds / calls for name, arm in arms.items()}
        self.builds |= any(self._firsts[shape.id, name] - found_s > BUILDING_S for name, found_s in seconds.items())
        overhead = seconds.pop(EMPTY, 0.0)
        fewest = calls_in_slice(seconds.values(), overhead, slice_s=self._room.slice_s, place=self._place)
        return min(self._room.max_calls(shape), fewest)

    def _every(self, shape: Shape, arms: Mapping[str, Arm], calls: int) -> dict[str, float]:
        """Have every arm make so many calls; the seconds that they take."""
        batch = self._draw(shape, calls)
        return {name: self._ask(shape, name, arm, batch).seconds for name, arm in arms.items()}
