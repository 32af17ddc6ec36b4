"""Questions that are put to the arms of a race beside its rounds: slices that look like timed ones and do not count.

Whether a kernel answers calls before they are made, leaves work that slows down whoever is next, or work that waits for
its next arguments. Nothing tells it that it is asked this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

from pytest_avo.core.evaluation import BASELINE, KERNEL
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.arm import Arm, Meanwhile, Slice
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.exchange import ArgumentExchange
from pytest_avo.evaluation.arms.faults import ArmFault, KernelFault, Suspected
from pytest_avo.evaluation.correctness.inputs import Inputs, Stream
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.race.aftermath import LEAST_DISTURBED, Aftermath, tried, waiting
from pytest_avo.evaluation.judge.race.samples import Samples

EXCHANGE_TRIES = 8
"""To exchange arguments in time on every shape at least once, after the rounds of the first launch."""
SliceAsker = Callable[[Shape, str, Arm, Sequence[Inputs] | Batch, Meanwhile | None], Slice]
"""A slice of an arm on a shape, as a timed one is."""


class Questions:
    """Of one race; ArmFault where an answer betrays an arm."""

    def __init__(
        self,
        *,
        shapes: Sequence[Shape],
        samples: Mapping[str, Samples],
        streams: Mapping[str, Stream],
        random: Random,
        place: str,
        ask: SliceAsker,
    ) -> None:
        """samples, streams: by shape id; place: kind of torch device, "cpu" or "cuda"."""
        self._shapes = shapes
        self._samples = samples
        self._streams = streams
        self._random = random
        self._place = place
        self._ask = ask
        self._aftermath = Aftermath(KERNEL)

    def note(self, shape: Shape, arm: str, seconds: float) -> None:
        """One timed slice; in the order in which they ran."""
        self._aftermath.note(shape.id, arm, seconds)

    def require_no_foresight(self, arms: Mapping[str, Arm]) -> None:
        """Ask for arguments to be exchanged once in time on every shape, if that can be."""
        left = list(self._shapes)
        for _ in range(EXCHANGE_TRIES):
            left = [shape for shape in left if not self.exchange(shape, arms[KERNEL])]

    def exchange(self, shape: Shape, arm: Arm) -> bool:
        """A slice of the kernel in which arguments are exchanged; whether that need not be again.

        A slice of one call has none to come. On a GPU nobody sees how far a graph is.
        """
        samples = self._samples[shape.id]
        if self._place != "cpu" or samples.calls == 1 or not (slices := samples.slices[KERNEL][-1]):
            return True
        inputs = self._streams[shape.id].draw(samples.calls, self._random.choice(shape.inputs))
        batch = Batch.anywhere(inputs, shape.dtype, self._random, place=self._place)
        exchange = ArgumentExchange(batch, arm.given, arm.result, self._random)
        found = self._ask(shape, KERNEL, arm, batch, exchange.meanwhile(self._random.choice(slices)))
        self.note(shape, KERNEL, found.seconds)
        if fault := exchange.fault(found):
            raise ArmFault(KERNEL, shape.id, fault)
        return exchange.was_in_time

    def require_nothing_waiting(self, arms: Mapping[str, Arm], *, disturbed: int) -> None:
        """Ask whether anybody has work on a GPU that begins once arguments are written, while all stand still.

        disturbed: slices before which the GPU had work, with nobody running.
        """
        if disturbed < LEAST_DISTURBED:
            return
        shape = self._shapes[0]
        draw = partial(self._streams[shape.id].draw, self._samples[shape.id].calls)

        def disturbs(name: str) -> bool:
            self._ask(shape, name, arms[name], draw(), None)
            return self._ask(shape, EMPTY, arms[EMPTY], draw(), None).disturbed

        if name := waiting((name for name in (KERNEL, BASELINE) if name in arms), disturbs, nobody=EMPTY):
            raise ArmFault(name, shape.id, Suspected("rejected", "left work that waits for its next arguments"))

    def require_nothing_running(self, arms: Mapping[str, Arm]) -> str:
        """Why nobody can say whether the kernel left work running, or ""; ArmFault where it did."""
        suspicion = self._aftermath.suspicion()
        if suspicion is None:
            return ""
        shape = next(shape for shape in self._shapes if shape.id == suspicion.shape)
        other = suspicion.arm

        def seconds(after_kernel: bool) -> float:
            batch = self._streams[shape.id].draw(self._samples[shape.id].calls)
            first = KERNEL if after_kernel else other
            self._ask(shape, first, arms[first], batch, None)
            return self._ask(shape, other, arms[other], batch, None).seconds

        outcome, slowed = tried(seconds, self._random)
        if outcome == "guilty":
            found = f"left work running: {other} takes {slowed:.0%} longer right after it"
            raise ArmFault(KERNEL, shape.id, KernelFault("rejected", found))
        return f"machine too busy to say whether it left work running ({suspicion.words})" * (outcome == "unclear")
