"""The judge at work: one request, from a fresh process and secret inputs to raw facts about every shape."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

import msgspec

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, EvaluationRequest, Reading, Subject
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.ahead import Ahead
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.faults import ArmFault, KernelEnded, KernelFault
from pytest_avo.evaluation.judge.checks import Checks
from pytest_avo.evaluation.judge.roofline import Roofline
from pytest_avo.evaluation.judge.timekeeper import Timekeeper

Lease = Callable[[bool], AbstractContextManager[float]]
"""Hold the device's lease: alone (True) or shared (False); yields the seconds that it was waited for."""

SEED_BITS = 62
"""Bits of a recorded seed: more than anybody can try, and an integer wherever results are kept."""
IDLE_WINDOWS_S = (0.06, 0.3, 0.6, 0.6)
MOST_BUSY = 0.1
"""CPU seconds per second above which a process that nothing is asked of is at work."""


class Examiner:
    """Evaluates requests one after another on one device."""

    def __init__(
        self,
        arms: Arms,
        *,
        lease: Lease,
        say: Callable[[str], None],
        worker: str,
        device: str,
        place: str = "cpu",
        reading: Callable[[], Reading | None] = lambda: None,
        roofline: Roofline | None = None,
        ahead: Ahead | None = None,
        spins: bool = False,
    ) -> None:
        """roofline: the device's, below which no time is believed; ahead: compiles without it, where that can be.

        spins: whether threads of kernels do, where they wait for each other.
        """
        self._arms = arms
        self._ahead = ahead
        self._lease = lease
        self._say = say
        self._worker = worker
        self._device = device
        self._place = place
        self._checks = Checks(arms, say=say, place=place)
        self._timekeeper = Timekeeper(
            arms,
            say=say,
            place=place,
            reading=reading,
            roofline=roofline,
            spins=spins,
            check_baseline=self._check_baseline,
        )

    def examine(self, request: EvaluationRequest) -> Iterator[Evaluation]:
        """Yield the facts of every shape as they are known.

        Every shape is checked; only a kernel that is right on all of them is timed, on all of them together.
        """
        if request.fresh:
            self._arms.drop(KERNEL)
        compiled_s = self._compile(request)
        right: dict[str, Evaluation] = {}
        for number, shape in enumerate(request.shapes, start=1):
            what = f"checking {request.subject.label} on {shape.id} ({number} of {len(request.shapes)})"
            with self._lease(False) as waited_s:
                evaluation = self._check(request, shape, what)
            evaluation = msgspec.structs.replace(evaluation, waited_s=waited_s, build_s=evaluation.build_s + compiled_s)
            compiled_s = 0.0
            if evaluation.outcome == "ok" and request.plan is not None:
                right[shape.id] = evaluation
            else:
                yield evaluation
        if len(right) < len(request.shapes):
            yield from right.values()
        else:
            if self._asks_baseline(request):
                # What it compiles for its first calls takes up to a minute, in which others may have the device; what
                # fails is asked again, and told, where it is to be timed.
                with self._lease(False), suppress(ArmFault):
                    self._check_baseline(request)
            self._arms.settle()
            with self._lease(True) as waited_s:
                right = {shape: _later(evaluation, waited_s / len(right)) for shape, evaluation in right.items()}
                is_watched = not (request.known_right or request.brief)
                if fault := self._background_work(request) if is_watched else None:
                    for evaluation in right.values():
                        yield msgspec.structs.replace(evaluation, outcome=fault.outcome, reason=fault.reason)
                else:
                    yield from self._time(request, right)

    def rehearse(self, request: EvaluationRequest, *, is_wanted: Callable[[], bool]) -> None:
        """Check the baseline of requests to come, which this one has, until `is_wanted`; another that is there stays.

        What fails is asked again, and told, where it is to be timed.
        """
        baseline = request.baseline
        if baseline is None or self._arms.has_another(BASELINE, baseline) or not self._asks_baseline(request):
            return
        if self._ahead is not None:
            _compiled_s(self._ahead, baseline, request)
        for shape in request.shapes:
            if self._arms.is_checked(BASELINE, baseline, shape):
                continue
            if is_wanted():
                return
            try:
                with self._lease(False):
                    self._check_baseline_on(shape, request)
            except ArmFault as error:
                self._arms.fault(BASELINE, error.error)
                return

    def _compile(self, request: EvaluationRequest) -> float:
        """Have compiled what can be without the device, which others may have meanwhile; the seconds that took."""
        if self._ahead is None:
            return 0.0
        for subject in request.subjects:
            self._ahead.begin(subject, request.shapes, claim_alone=request.claim_alone, brief=request.brief)
        self._say(f"compiling {request.subject.label}")
        return sum(_compiled_s(self._ahead, subject, request) for subject in request.subjects)

    def _check(self, request: EvaluationRequest, shape: Shape, what: str) -> Evaluation:
        seed = secrets.randbits(SEED_BITS)
        evaluation = Evaluation(shape.id, "ok", seed=seed, worker=self._worker, device=self._device)
        if misfit := self._arms.room.misfit(shape):
            return msgspec.structs.replace(evaluation, outcome="unsupported", reason=misfit, unfit=True)
        try:
            build_s, check_s = self._checks.battery(KERNEL, request.subject, request, shape, seed=seed, what=what)
        except (KernelFault, KernelEnded) as error:
            return self._failed(evaluation, error)
        return msgspec.structs.replace(evaluation, build_s=build_s, check_s=check_s)

    def _check_baseline(self, request: EvaluationRequest) -> None:
        """Ask the baseline all that the kernel was asked, so that it cannot tell which of the two it is.

        ArmFault where it fails.
        """
        if self._asks_baseline(request):
            for shape in request.shapes:
                self._check_baseline_on(shape, request)

    def _check_baseline_on(self, shape: Shape, request: EvaluationRequest) -> None:
        assert request.baseline is not None
        if not self._arms.is_checked(BASELINE, request.baseline, shape):
            what = f"checking {request.baseline.label} on {shape.id}"
            seed = secrets.randbits(SEED_BITS)
            try:
                self._checks.battery(BASELINE, request.baseline, request, shape, seed=seed, what=what)
            except (KernelFault, KernelEnded) as error:
                raise ArmFault(BASELINE, shape.id, error) from None

    def _asks_baseline(self, request: EvaluationRequest) -> bool:
        """Whether a baseline is to be checked: where both are timed in new processes, neither of those was asked."""
        there = request.baseline is not None and not self._timekeeper.is_absent(request.baseline)
        return there and request.plan is not None and not self._are_new(request)

    def _are_new(self, request: EvaluationRequest) -> bool:
        """Whether kernel and baseline are timed in processes that were started for that.

        A process that was checked, or has served for long, has another heap than a new one, which is measured. On a CPU
        new ones cost some hundredths of a second, on a GPU far more: there those that confirm are new.
        """
        assert request.plan is not None
        return self._place == "cpu" or request.plan.launches > 1 or request.fresh

    def _background_work(self, request: EvaluationRequest) -> KernelFault | None:
        """The fault of a kernel that works on when it has answered: what it does there is in nobody's time.

        Threads that wait, and helpers that finish soon, are honest: busy in every one of the windows is not.
        """
        try:
            arm = self._arms.get(KERNEL, request.subject, request.shapes, request.limits)
        except KernelFault as error:
            return error
        for window_s in IDLE_WINDOWS_S:
            if (share := arm.busy(window_s)) < MOST_BUSY:
                return None
        found = KernelFault("rejected", f"used {share:.1f} s of CPU time while idle, in every second")
        return self._arms.fault(KERNEL, found)

    def _time(self, request: EvaluationRequest, right: dict[str, Evaluation]) -> Iterator[Evaluation]:
        try:
            timed = self._timekeeper.time(request)
        except ArmFault as error:
            yield self._failed(right.pop(error.shape), error.error)
            yield from right.values()
            return
        for shape, evaluation in right.items():
            yield msgspec.structs.replace(
                evaluation, timing=timed.timings[shape], time_s=timed.seconds / len(right), notes=timed.notes
            )

    def _failed(self, evaluation: Evaluation, error: KernelFault | KernelEnded) -> Evaluation:
        found = self._arms.fault(KERNEL, error)
        log = self._arms.log(KERNEL)
        return msgspec.structs.replace(evaluation, outcome=found.outcome, reason=found.reason, log=log)


def _later(evaluation: Evaluation, waited_s: float) -> Evaluation:
    return msgspec.structs.replace(evaluation, waited_s=evaluation.waited_s + waited_s)


def _compiled_s(ahead: Ahead, subject: Subject, request: EvaluationRequest) -> float:
    """Wait until a kernel is compiled for what a request asks; the seconds that took."""
    return ahead.finish(
        subject,
        request.shapes,
        claim_alone=request.claim_alone,
        brief=request.brief,
        limit_s=request.limits.build,
    )
