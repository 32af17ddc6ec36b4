"""Timing kernels against each other: interleaved rounds on fresh inputs, by the judge's clock.

In a round every arm runs once on the same inputs, in an order that is drawn anew for every other round and reversed in
the next, all but the one being timed frozen. What is kept are the paired times: absolute ones mean little.

Rounds take the kinds of inputs of a shape in turn, the same for all arms: a race ends where every kind had its turn, be
it that its time is spent. When it ends, and which shapes the next round is for, stopping.py says.

One more arm runs along, a kernel of ours that does nothing: on a GPU in every round, on a CPU while others warm up.
What a slice of it takes (waking the process, asking, copying results out) is what every other slice takes beside its
kernel's work, and is subtracted from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random

import torch

from pytest_avo.core import ranking
from pytest_avo.core.evaluation import KERNEL, CallCost, Evaluation, Reading, Timing, TimingPlan
from pytest_avo.core.shape import InputKind, Shape
from pytest_avo.evaluation.arms.arm import Arm, Meanwhile, Slice
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.faults import ArmFault, KernelEnded, KernelFault
from pytest_avo.evaluation.correctness.inputs import Inputs, Stream
from pytest_avo.evaluation.correctness.mixture import mix_timed
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.room import HOST, Room
from pytest_avo.evaluation.judge.judgement import DeferredJudgement, look_at_slice, rival_of
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.race.call_costs import call_costs
from pytest_avo.evaluation.judge.race.order import Order
from pytest_avo.evaluation.judge.race.placement import Placement, uses_foreign_cores
from pytest_avo.evaluation.judge.race.questions import Questions
from pytest_avo.evaluation.judge.race.samples import Samples
from pytest_avo.evaluation.judge.race.stopping import LEAST_ROUNDS, Stopping
from pytest_avo.evaluation.judge.race.warm_up import WarmUp

EMPTY_SLICES = 4
"""Of the empty arm, where it is timed apart from the rounds. The least counts: one that was interrupted tells nothing
of the slices that it is subtracted from."""
SEED_BITS = 64
"""Of what chance picks to look at in a round's outputs, which a second thread does."""
EXCHANGED_SHARE = 1 / 32
"""Of the slices of a kernel on a CPU, so many more in which arguments are exchanged, before a round or after it."""


class Race:
    """One comparison of arms over shapes, launch after launch."""

    def __init__(
        self,
        *,
        shapes: list[Shape],
        plan: TimingPlan,
        limit_s: float,
        seed: int,
        place: str = "cpu",
        room: Room = HOST,
        reading: Callable[[], Reading | None] = lambda: None,
        slice_calls: MutableMapping[str, int] | None = None,
    ) -> None:
        """slice_calls: what `WarmUp` knows from earlier races."""
        self._shapes = shapes
        self._plan = plan
        self._limit_s = limit_s
        self._place = place
        self._room = room
        self._reading = reading
        self._random = Random(seed)
        self._source = generator(seed, place)
        self._streams = {shape.id: Stream(shape, self._source) for shape in shapes}
        self._turns = math.lcm(*(len(shape.inputs) for shape in shapes))
        self._samples = {shape.id: Samples(place) for shape in shapes}
        self._readings: list[Reading] = []
        self._launched: set[str] = set()
        self._disturbed = 0
        """Slices before which a GPU had work, with nobody running."""
        self._costs: dict[str, dict[str, CallCost]] = {}
        self._judgement = DeferredJudgement(place)
        self._order = Order(self._random)
        self._questions = Questions(
            shapes=shapes,
            samples=self._samples,
            streams=self._streams,
            random=self._random,
            place=place,
            ask=self._slice,
        )
        self._warming = WarmUp(
            place=place,
            room=room,
            ask=self._slice,
            draw=lambda shape, calls: self._streams[shape.id].draw(calls),
            known={} if slice_calls is None else slice_calls,
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        return [f"{arm}: not captured in a CUDA graph, its times include launching" for arm in sorted(self._launched)]

    def run(self, launch: Callable[[], Mapping[str, Arm]], say: Callable[[str], None]) -> dict[str, Timing]:
        """Race the arms that `launch` provides (fresh ones on every call but the first); ArmFault when one fails."""
        stopping = Stopping(self._plan, self._shapes, turns=self._turns)
        stopped, done = "", 0
        for number in range(self._plan.launches):
            arms = launch()
            if number and self._place == "cpu":
                arms = {name: arm for name, arm in arms.items() if name != EMPTY}  # what it takes is known
            for shape in self._shapes:
                self._samples[shape.id].begin_launch(arms)
                # They build, with threads of their own.
                self._warming.first_calls(shape, arms, self._samples[shape.id].calls)
            placement = Placement([arm.pid for arm in arms.values()] if self._place == "cpu" else [])
            for shape in self._shapes:
                self._warm_up(shape, arms)
            placement.settle()
            if self._plan.costs and not self._costs:
                self._costs = {shape.id: self._call_costs(shape, arms) for shape in self._shapes}
            reason, rounds = self._rounds(arms, stopping, say, before=number * stopping.rounds)
            self._judgement.settle()
            done += rounds
            if number == 0 and not stopping.lets_go(reason):
                self._questions.require_no_foresight(arms)
            placement.release()
            self._require_standstill(arms)
            self._questions.require_nothing_waiting(arms, disturbed=self._disturbed)
            stopped = reason or stopped
            others = arms.keys() - {KERNEL, EMPTY}
            if reason := stopping.after_launch(number + 1, self._paired, others=others, slowest=self._slowest):
                stopped = reason
                break
        self._check_clocks()
        unclear = self._questions.require_nothing_running(arms)
        stopped = stopped or f"all {stopping.rounds * self._plan.launches} rounds done"
        return {shape.id: self._timing(shape, stopped, self._too_few(done) or unclear) for shape in self._shapes}

    def _rounds(
        self, arms: Mapping[str, Arm], stopping: Stopping, say: Callable[[str], None], *, before: int
    ) -> tuple[str, int]:
        """The rounds of a launch: why they ended before all were made, or "", and how many there were."""
        started = time.monotonic()
        round_s = dict.fromkeys(self._samples, 0.0)
        for index in range(stopping.rounds):
            say(f"round {before + index + 1} of at most {stopping.rounds * self._plan.launches}")
            order = self._order.next(arms)
            for shape in list(stopping.open):
                begun = time.monotonic()
                chance = self._random.random()
                if chance < EXCHANGED_SHARE / 2:
                    self._questions.exchange(shape, arms[KERNEL])
                self._round(shape, arms, order, shape.inputs[index % len(shape.inputs)])
                if chance > 1 - EXCHANGED_SHARE / 2:
                    self._questions.exchange(shape, arms[KERNEL])
                round_s[shape.id] += time.monotonic() - begun
            if reading := self._reading():
                self._readings.append(reading)
            others = arms.keys() - {KERNEL, EMPTY}
            spent_s = time.monotonic() - started
            if reason := stopping.after_round(index + 1, spent_s, self._paired, others=others, round_s=round_s):
                return reason, index + 1
        return "", stopping.rounds

    def _timing(self, shape: Shape, stopped: str, too_few: str) -> Timing:
        """What was measured of a shape, and why that may be too little."""
        return self._samples[shape.id].timing(
            stopped=stopped,
            readings=tuple(self._readings),
            too_few=too_few,
            costs=self._costs.get(shape.id, {}),
            eager=self._place == "cuda" and self._plan.calls == "eager",
        )

    def _require_standstill(self, arms: Mapping[str, Arm]) -> None:
        """Nobody may have been at work since its last slice either."""
        for name, arm in arms.items():
            try:
                arm.require_standstill()
            except KernelFault as error:
                raise ArmFault(name, self._shapes[0].id, error) from None

    def _warm_up(self, shape: Shape, arms: Mapping[str, Arm]) -> None:
        """Further untimed calls of every arm; on a CPU of the empty one as many as tell what a slice of it takes."""
        samples = self._samples[shape.id]
        samples.calls = self._warming.further_calls(shape, arms, samples.calls)
        if EMPTY in arms and self._place == "cpu":
            (inputs,) = self._streams[shape.id].draw(1)
            # It reads nothing: to write as many keys as others have takes longer than all else.
            batch = [replace(inputs, k=inputs.k[:, :, :1], v=inputs.v[:, :, :1])] * samples.calls
            for _ in range(EMPTY_SLICES):
                found = self._slice(shape, EMPTY, arms[EMPTY], batch)
                samples.slices[EMPTY][0].append(found.seconds)

    def _call_costs(self, shape: Shape, arms: Mapping[str, Arm]) -> dict[str, CallCost]:
        def ask(name: str, batch: list[Inputs], enqueue: bool) -> Slice:
            arm, laid = arms[name], self._laid(shape, batch)
            if enqueue:
                return self._ask(shape, name, arm, lambda: arm.enqueue(laid, limit_s=self._limit_s))
            call = partial(arm.call, laid, shape.dtype, limit_s=self._limit_s, phase="time", eager=True)
            return self._ask(shape, name, arm, call)

        return call_costs(
            sorted(arms),
            draw=self._streams[shape.id].draw,
            ask=ask,
            look_at=partial(look_at_slice, shape, random=self._random),
            most_calls=self._room.max_calls(shape),
        )

    def _round(self, shape: Shape, arms: Mapping[str, Arm], order: list[str], kind: InputKind) -> None:
        samples = self._samples[shape.id]
        batch = self._streams[shape.id].draw(samples.calls, kind)
        samples.kinds[-1].append(kind)
        unusual = mix_timed(batch, self._random, self._source)
        laid, rival = self._laid(shape, batch), rival_of(arms)
        out, other = torch.empty(0), torch.empty(0)
        for name in order:
            if name == EMPTY and self._place == "cpu":
                continue
            result = self._slice(shape, name, arms[name], laid)
            if name in (KERNEL, rival) or self._place == "cpu":
                # As they are now, whatever becomes of them while others run; of all, since a copy leaves its mark on
                # the caches that the next one finds.
                outputs = result.outputs()
                out, other = (outputs, other) if name == KERNEL else (out, outputs if name == rival else other)
            samples.slices[name][-1].append(result.seconds)
            if name != EMPTY:
                self._questions.note(shape, name, result.seconds)
        # Judged while the inputs of the next round are drawn.
        compare = partial(look_at_slice, shape, batch, out, other if rival else None, groups=unusual)
        self._judgement.begin(partial(compare, random=Random(self._random.getrandbits(SEED_BITS))))

    def _laid(self, shape: Shape, batch: Sequence[Inputs]) -> Batch:
        return Batch.anywhere(batch, shape.dtype, self._random, place=self._place)

    def _slice(
        self,
        shape: Shape,
        name: str,
        arm: Arm,
        batch: Sequence[Inputs] | Batch,
        meanwhile: Meanwhile | None = None,
    ) -> Slice:
        eager = self._plan.calls == "eager"
        laid = batch if isinstance(batch, Batch) else self._laid(shape, batch)
        call = partial(
            arm.call, laid, shape.dtype, limit_s=self._limit_s, phase="time", eager=eager, meanwhile=meanwhile
        )
        result = self._ask(shape, name, arm, call)
        self._disturbed += result.disturbed
        if name != EMPTY or self._place == "cuda":
            self._samples[shape.id].note_account(name, result)
        if self._place == "cuda" and name != EMPTY and not (eager or result.replayed):
            self._launched.add(name)
        return result

    def _ask(self, shape: Shape, name: str, arm: Arm, ask: Callable[[], Slice]) -> Slice:
        """What an arm answers; ArmFault where it fails. Nothing else is at work then."""
        self._judgement.settle()
        try:
            result = ask()
            if uses_foreign_cores(arm.pid):
                raise KernelFault("rejected", "runs on cores that it was not given")
        except (KernelFault, KernelEnded) as error:
            raise ArmFault(name, shape.id, error) from None
        return result

    def _too_few(self, rounds: int) -> str:
        """Why so many rounds in all are too few to say anything, or ""."""
        least = min(LEAST_ROUNDS, self._plan.max_rounds if self._plan.margin is None else self._plan.min_rounds)
        missing = [kind for shape in self._shapes for kind in self._samples[shape.id].missing(shape.inputs)]
        if rounds >= least and not missing:
            return ""
        said = f"{rounds} round{'' if rounds == 1 else 's'}"
        if missing:
            said, least = f"no round on {missing[0]} inputs", max(least, self._turns * self._plan.launches)
        return f"{said} in the time budget of {self._plan.budget_s:g} s, a verdict takes {least}"

    def _paired(self, shape: str, arm: str) -> list[list[float]]:
        return self._samples[shape].paired(arm)

    def _slowest(self) -> float:
        """The log-ratio to the baseline on the kind of inputs where the kernel gains least."""
        found = {x.id: Evaluation(x.id, "ok", timing=self._timing(x, "", "")) for x in self._shapes}
        return ranking.slowest(ranking.gains_by_kind(found, self._shapes, confidence=ranking.ONE_SIDED_99))

    def _check_clocks(self) -> None:
        """Reject a kernel whose process accounts for less, or more, of the measured time than the other arms do."""
        for shape, samples in self._samples.items():
            if found := samples.clock_fault():
                raise ArmFault(KERNEL, shape, KernelFault("rejected", f"{found} ({shape})"))
