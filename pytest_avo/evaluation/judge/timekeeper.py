"""The timekeeper: a right kernel's time beside those of others, once more or without them where one of these fails."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import (
    BASELINE,
    FIXED,
    KERNEL,
    Calls,
    EvaluationRequest,
    Reading,
    Subject,
    Timing,
    TimingPlan,
)
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.faults import ArmFault, KernelFault, KernelRaised, Suspected
from pytest_avo.evaluation.judge.checks import raised
from pytest_avo.evaluation.judge.peers import EMPTY, peer, version
from pytest_avo.evaluation.judge.race.starter import LOADING, Starter
from pytest_avo.evaluation.judge.race.timing import Race
from pytest_avo.evaluation.judge.roofline import Roofline


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured, by shape id, and what a reader of it must know."""

    timings: Mapping[str, Timing]
    notes: tuple[str, ...]
    seconds: float
    """What all of it took."""


class Timekeeper:
    """Times kernels that are right, request after request, on a device that it has alone."""

    def __init__(
        self,
        arms: Arms,
        *,
        say: Callable[[str], None],
        place: str,
        reading: Callable[[], Reading | None],
        roofline: Roofline | None,
        spins: bool,
        check_baseline: Callable[[EvaluationRequest], None],
    ) -> None:
        """check_baseline: sees to it that a request's baseline was asked what its kernel was; ArmFault where it fails.

        place: kind of torch device, "cpu" or "cuda"; the others are the `Examiner`'s.
        """
        self._arms = arms
        self._say = say
        self._place = place
        self._reading = reading
        self._roofline = roofline
        self._spins = spins
        self._check_baseline = check_baseline
        self._slice_calls: dict[Calls, dict[str, int]] = {}
        self._absent: dict[Subject, str] = {}
        """Peers and baselines that did not load, and why: they will not the next time."""

    def is_absent(self, subject: Subject) -> bool:
        """Whether a peer or a baseline did not load when it was to be timed."""
        return subject in self._absent

    def time(self, request: EvaluationRequest) -> Timed:
        """Time a request's kernel beside all others; ArmFault where it fails, of the kernel.

        EvaluatorError where one fails twice without which nothing can be said.
        """
        assert request.plan is not None
        others = _others(request)
        notes = [f"{name}: {self._absent[other]}" for name, other in others.items() if other in self._absent]
        subjects = {KERNEL: request.subject}
        subjects |= {name: other for name, other in others.items() if other not in self._absent}
        subjects[EMPTY] = peer(EMPTY)
        start, failed_once = time.perf_counter(), set[str]()
        while True:
            race = self._race(request, request.plan if BASELINE in subjects else _undecided(request.plan))
            are_new = self._place == "cpu" or KERNEL in failed_once
            starter = Starter(self._arms, subjects, request, both_new=are_new and BASELINE in subjects)
            try:
                if BASELINE in subjects:
                    self._check_baseline(request)
                timings = race.run(starter, lambda text: self._say(f"timing {request.subject.label}, {text}"))
                timings = {shape.id: self._believed(shape, timings[shape.id]) for shape in request.shapes}
                break
            except ArmFault as error:
                is_needed = error.arm == EMPTY or (error.arm == BASELINE and not request.may_lack_baseline)
                may_be_chance = error.arm not in failed_once and (is_needed or isinstance(error.error, Suspected))
                if error.arm == KERNEL and not may_be_chance:
                    fault = error.error
                    if isinstance(fault, KernelRaised):
                        fault = raised(fault, "a timed call", again=True)
                    raise ArmFault(KERNEL, error.shape, fault) from None
                found = self._arms.fault(error.arm, error.error)
                if may_be_chance:  # a run would end for it, or an honest kernel be called a cheat
                    failed_once.add(error.arm)
                    notes.append(f"{error.arm}: {found.reason}; it was timed again")
                    continue
                if is_needed:
                    who = "empty kernel" if error.arm == EMPTY else "incumbent"
                    raise EvaluatorError(f"the {who} failed while it was timed: {found.reason}") from None
                failed = subjects.pop(error.arm)
                notes.append(f"{error.arm}: {found.reason}")
                if error.shape == LOADING:
                    self._absent[failed] = found.reason
        notes += [f"{name} {version(name)}" for name in request.peers if name in subjects and version(name)]
        notes += race.notes
        return Timed(timings, tuple(notes), time.perf_counter() - start)

    def _race(self, request: EvaluationRequest, plan: TimingPlan) -> Race:
        return Race(
            shapes=list(request.shapes),
            plan=plan,
            limit_s=request.limits.time,
            seed=secrets.randbits(128),
            place=self._place,
            room=self._arms.room,
            reading=self._reading,
            slice_calls=self._slice_calls.setdefault(plan.calls, {}),
        )

    def _believed(self, shape: Shape, timing: Timing) -> Timing:
        """The timing beside what the device can do; ArmFault where it is beyond that."""
        timing = msgspec.structs.replace(timing, spins=self._spins)
        if self._roofline is None:
            return timing
        bounded = self._roofline.bounded(shape, timing)
        if found := self._roofline.fault(shape, bounded):
            raise ArmFault(KERNEL, shape.id, KernelFault("rejected", found))
        return bounded


def _others(request: EvaluationRequest) -> dict[str, Subject]:
    """What the kernel is to be timed beside, by arm."""
    others = {name: peer(name) for name in request.peers}
    if request.fixed:
        others[FIXED] = peer(request.fixed)
    if request.baseline is not None:
        others[BASELINE] = request.baseline
    return others


def _undecided(plan: TimingPlan) -> TimingPlan:
    """The plan where there is no baseline: a margin is one to it, and without it no question is left open."""
    return plan if plan.margin is None else msgspec.structs.replace(plan, margin=None, max_rounds=plan.min_rounds)
