"""All that a kernel is asked before it is timed on a shape: the battery, nudged inputs, slices as timed ones are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch

from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.core.kernel import claim_of
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.arms.arm import Arm, Slice
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.faults import KernelEnded, KernelFault, KernelRaised
from pytest_avo.evaluation.arms.link import Phase
from pytest_avo.evaluation.correctness.battery import beside_once, called_in_a_row, first_case, judged_in_full
from pytest_avo.evaluation.correctness.cross_check import Group, call_fault, plain_outputs, slice_fault
from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_asked_instead, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
from pytest_avo.evaluation.correctness.inputs import Arguments, Case, Inputs, Stream
from pytest_avo.evaluation.correctness.mixture import CheckedSlice, checked_slices, mix_all
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.nudge import Nudge, nudges
from pytest_avo.evaluation.judge.judgement import DeferredJudgement

ROW_CALLS, ROW_SLICE_CALLS, ROW_S = 32, 8, 0.3
"""Calls of a claimed size in a row that a check makes at the cheapest shape of a dtype and head dimension, in slices
of so many, and what they may take: timed slices of a fast kernel hold as many, those beside a slow one a call or two,
and some kernels are wrong after twenty."""


class _Spent:
    """What calls of one phase took of its limit, those that were refused too."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.seconds = 0.0

    def on(self, call: Callable[..., Slice]) -> Slice:
        """What a call answers that takes `limit_s`, with what is left of that."""
        start = time.perf_counter()
        try:
            found = call(limit_s=max(0.001, self._limit_s - self.seconds))
        except KernelRaised:
            self.seconds += time.perf_counter() - start
            raise
        self.seconds += found.seconds
        return found


class Checks:
    """Checks arms on one device; KernelFault or KernelEnded where one fails."""

    def __init__(self, arms: Arms, *, say: Callable[[str], None], place: str) -> None:
        """place: kind of torch device, "cpu" or "cuda"."""
        self._arms = arms
        self._say = say
        self._place = place
        self._judgement = DeferredJudgement(place)
        self._refused: dict[str, set[str]] = {}
        """Functions of which a kernel refused calls that it does not claim, by the digest of its source."""

    def battery(
        self, name: str, subject: Subject, request: EvaluationRequest, shape: Shape, *, seed: int, what: str
    ) -> tuple[float, float]:
        """All that an arm is asked before it is timed on a shape; the seconds of building and of all else.

        What a first call takes counts as building, for which there is one limit over all lengths.
        """
        begun = time.perf_counter()
        try:
            building_s = self._ask_all(name, subject, request, shape, seed=seed, what=what)
            self._judgement.settle()
        finally:
            self._judgement.forget()
        self._arms.note_check(name, shape)
        build_s = building_s + self._arms.take_build_s(name)
        return build_s, max(0.0, time.perf_counter() - begun - build_s)

    def _ask_all(
        self, name: str, subject: Subject, request: EvaluationRequest, shape: Shape, *, seed: int, what: str
    ) -> float:
        """Ask it, each answer being judged while the next question is drawn; the seconds that first calls took."""
        random, source, limits = Random(seed), generator(seed, self._place), request.limits
        in_full = not _is_screening(request) or (not request.brief and shape.id in judged_in_full(request.shapes))
        building, checking = _Spent(limits.build), _Spent(limits.check)
        for number, case in enumerate(self._cases(subject, shape, request, random, in_full=in_full)):
            self._say(f"{what}: {case.name}")
            arm = self._arms.get(name, subject, request.shapes, limits, timed=request.plan is not None)
            first = self._arms.is_first_call(name, case.shape, case.way)
            spent = building if first else checking
            inputs = self._check_case(arm, case, source, spent=spent, first=first, in_full=in_full)
            if inputs is None:
                self._refused.setdefault(text_digest(subject.source), set()).add(case.function)
            if number == 0:
                self._judgement.settle()  # most wrong ones are wrong here: putting the other cases together takes 10 ms
            if request.brief:
                continue
            if isinstance(inputs, Inputs) and isinstance(case, Case) and case.required and case.kind == "needle":
                self._check_nudges(arm, case, inputs, random, spent=checking)
                eager = request.plan is not None and request.plan.calls == "eager"
                row = ROW_CALLS if shape.id in called_in_a_row(request.shapes) else 0
                self._check_slices(arm, shape, random, source, spent=checking, eager=eager, row=row)
        return building.seconds

    def _cases(
        self, subject: Subject, shape: Shape, request: EvaluationRequest, random: Random, *, in_full: bool
    ) -> Iterator[Case | SequencesCase]:
        """All single calls for a shape; only after the first are the others put together, which takes 10 ms.

        Where they are not judged in full they are plain calls, by the code that is timed.
        """
        claim = claim_of(subject.source, path=Path(subject.label)) if in_full else None
        yield first_case(shape, random, lse=claim is not None and claim.lse)
        if request.known_right:
            return  # that call has built what it needs, within the limit of that
        beside = "nothing" if request.claim_alone else beside_once(request.shapes)[shape.id]
        yield from all_cases(shape, claim, random, place=self._place, beside=beside)[1:]
        if not request.claim_alone and (refused := self._refused.get(text_digest(subject.source))):
            yield from all_asked_instead(shape, claim, random, refused, place=self._place)

    def _check_case(
        self,
        arm: Arm,
        case: Case | SequencesCase,
        generator: torch.Generator,
        *,
        spent: _Spent,
        first: bool,
        in_full: bool,
    ) -> Arguments | None:
        """What was answered, None where the kernel refused what it did not claim.

        in_full: an exact reference tells of every element; else of those that differ most from torch's own attention.
        """
        inputs = draw_any(case, generator)
        asked = [inputs] if not isinstance(inputs, Inputs) or case.times == 1 else inputs.split(case.times)
        phase: Phase = "build" if first else "check"
        where = "" if case.required else f", {case.shape.id}"
        call = partial(arm.call, asked, case.shape.dtype, phase=phase, guarded=case.times == 1, lse=case.lse)
        self._judgement.settle()
        try:
            result = spent.on(call)
        except KernelRaised as error:
            if case.required or error.outcome != "unsupported":
                raise raised(error, f"{case.name}{where}", again=case.required and not first) from None
            return None  # a shape that was not claimed may be refused
        except KernelEnded as error:
            raise KernelEnded(f"{error} ({case.name}, {case.shape.id})") from None

        def judge() -> None:
            outs = [result.output(number) for number in range(case.times)]
            out = torch.cat(outs) if case.times > 1 else outs[0]
            if in_full or not isinstance(inputs, Inputs):
                found = answer_fault(inputs, out, result.lse(0) if case.lse else None)
            else:
                found = call_fault(inputs, out)
            if found:
                raise KernelFault("incorrect", f"{found} ({case.name}{where})")

        self._judgement.begin(judge)
        return inputs

    def _check_nudges(self, arm: Arm, case: Case, inputs: Inputs, random: Random, *, spent: _Spent) -> None:
        """The same call with one element changed, three times: no answer may come from memory."""
        for nudge in nudges(inputs, random):
            self._judgement.settle()
            try:
                result = spent.on(partial(arm.call, [nudge.inputs], case.shape.dtype, phase="check", guarded=True))
            except KernelRaised as error:
                raise raised(error, nudge.what, again=True) from None
            except KernelEnded as error:
                raise KernelEnded(f"{error} ({nudge.what}, {case.shape.id})") from None
            self._judgement.begin(partial(_judge_nudge, nudge, result))

    def _check_slices(
        self,
        arm: Arm,
        shape: Shape,
        random: Random,
        source: torch.Generator,
        *,
        spent: _Spent,
        eager: bool,
        row: int,
    ) -> None:
        """Slices as timed ones are, in which every unusual kind of inputs occurs; nothing here may be refused.

        row: calls that are to follow each other, unless they take too long.
        """
        stream, most_calls = Stream(shape, source), self._arms.room.max_calls(shape)
        due = deque(checked_slices(shape, random, most_calls=most_calls))
        before = max(0, row - sum(each.calls for each in due))  # usual ones, so that unusual ones come late in the row
        begun_s = spent.seconds
        while due:
            size = min(before, ROW_SLICE_CALLS, most_calls) if spent.seconds - begun_s < ROW_S else 0
            each = CheckedSlice(random.choice(shape.inputs), size, ()) if size else due.popleft()
            before -= size
            batch = stream.draw(each.calls, each.base)
            changed = mix_all(batch, each.kinds, random, source)
            what = f"a slice with {', '.join(dict.fromkeys(each.kinds))} inputs" if each.kinds else "a slice"
            self._judgement.settle()
            try:
                laid = Batch.anywhere(batch, shape.dtype, random, place=self._place)
                call = partial(arm.call, laid, shape.dtype, phase="check", like_timed=True, eager=eager)
                result = spent.on(call)
            except KernelRaised as error:
                raise raised(error, what, again=True) from None
            except KernelEnded as error:
                raise KernelEnded(f"{error} ({what}, {shape.id})") from None
            self._judgement.begin(partial(_judge_slice, batch, result, changed, what))


def _is_screening(request: EvaluationRequest) -> bool:
    """Whether another request asks, or asked, all of it in full; what a gate knows to be right is asked one call."""
    return request.claim_alone and not request.known_right


def _judge_nudge(nudge: Nudge, result: Slice) -> None:
    if found := nudge.at.fault(nudge.inputs, result.output(0)):
        raise KernelFault("incorrect", f"{found} ({nudge.what})")


def _judge_slice(batch: list[Inputs], result: Slice, changed: Collection[Group], what: str) -> None:
    if found := slice_fault(batch, result.outputs(), plain_outputs(batch), groups=changed):
        raise KernelFault("incorrect", f"{found} ({what})")


def raised(error: KernelRaised, what: str, *, again: bool) -> KernelFault:
    """The fault of a kernel that raised. again: on a claimed shape of which it had answered other inputs."""
    if again and error.outcome == "unsupported":
        return KernelFault("incorrect", f"refuses some inputs of a shape that it answers: {error.reason} ({what})")
    return KernelFault(error.outcome, f"{error.reason} ({what})")
