"""The gate: which slowdowns fail.

A kernel fails on a shape when two measurements, each in processes and on inputs of its own, both show it slower than
allowed: the whole interval of its slowdown lies beyond the limit. The intervals are as wide as it takes for a run
whose kernels all are exactly as slow as allowed to fail once in a hundred times: with m comparisons, each measurement
errs with probability at most sqrt(1% / m), both together with 1% / m, and all comparisons with 1% (Bonferroni, which
unlike Holm's procedure needs no other comparison's result: items are judged one by one, on any worker).

The second measurement is looked at up to three times, each time at a third of that risk: after four launches of a
quarter of the rounds that the first one took, and, where these leave it open, after four of a half and four of three
quarters. What a process deviates by is in all of its rounds: launches tell more than rounds, of which the first
measurement needed so many for its one launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from pytest_avo.core import stats
from pytest_avo.core.evaluation import KERNEL, Evaluation, EvaluationRequest, Evaluations, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.ranking import failing, ranking, slower_kind
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import GOOD, Total, Verdict, VerdictKind
from pytest_avo.gate.gains import Comparand, Gains
from pytest_avo.gate.refs import GitBaseline
from pytest_avo.gate.rules import Rules
from pytest_avo.gate.store import StoredBaseline

RISK = 0.01
"""Chance that a run fails although no kernel is slower than allowed."""
WIDEST_TAIL = 0.025
"""An interval is never narrower than the 95% one that is shown."""
LEAST_ROUNDS = 6
FEWEST_ROUNDS = 5
"""The fewest rounds that are measured, also where the user allows fewer: an interval of less says nothing."""
PATIENCE = 4
"""How many times the usual rounds a question may take that the usual ones leave open."""
CONFIRM_LAUNCHES = 4
"""Launches of each part of a second measurement."""
CONFIRM_SHARES = (0.25, 0.5, 0.75)
"""Of the rounds that decided the first one: as many as a launch of the first, second and third part has."""
SAVED_LAUNCHES = 3
"""Of a baseline that is kept."""

Measuring = Callable[[EvaluationRequest], Evaluations]
"""Evaluate and wait: shape id -> facts. EvaluatorError when the machine fails."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a comparison amounts to."""

    kind: VerdictKind
    reason: str
    gains: Gains | None
    regressed: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Judges kernels beside a baseline."""

    baseline: GitBaseline | StoredBaseline
    rules: Rules
    lenient: bool
    """Shapes that the baseline lacks are listed, not failed."""
    floor: float
    """Log-ratio below which two kernels count as the same."""
    comparisons: int = 1
    """How many the run makes."""

    def among(self, comparisons: int) -> Gate:
        """The gate of a run that makes so many comparisons."""
        return replace(self, comparisons=comparisons)

    @property
    def confidence(self) -> float:
        """Confidence of the intervals that decide."""
        return 1 - 2 * min(WIDEST_TAIL, math.sqrt(RISK / max(1, self.comparisons)))

    def limit(self, case: Comparand) -> float | None:
        """The limit on the slowdown of one shape's median."""
        return self.rules.limit("median", kernel=case.name, suites=case.suites)

    def prepared(self, request: EvaluationRequest, kernel: Kernel, limit: float | None) -> EvaluationRequest:
        """The request with the baseline's arm and, where there is a limit, timed until that is decided."""
        subject = self.baseline.subject(kernel)
        if subject is None or request.plan is None:
            return request
        risk = (1 - self.confidence) / 2  # as seldom as the interval errs that decides then
        plan = request.plan if limit is None else until_decided(request.plan, limit, risk=risk)
        return msgspec.structs.replace(request, baseline=subject, may_lack_baseline=True, plan=plan)

    def judge(
        self, verdict: Verdict, case: Comparand, evaluation: Evaluation, request: EvaluationRequest, evaluate: Measuring
    ) -> Verdict:
        """The verdict on a right kernel beside the baseline; what looks too slow is measured once more, which blocks.

        request: the prepared one that was answered by `evaluation`.
        """
        if not verdict.is_good or evaluation.timing is None or evaluation.timing.too_few:
            return verdict
        found = self._find([case], {case.shape.id: evaluation}, request, evaluate, limit=self.limit(case))
        if isinstance(found, str):
            fails = bool(self.rules) and not self.lenient
            return msgspec.structs.replace(verdict, reason=found, unmatched=True, regressed=fails)
        if found.gains is None:
            if found.kind in GOOD:  # the kernel's own figures stand
                return msgspec.structs.replace(verdict, kind=found.kind, reason=found.reason)
            return Verdict(verdict.shape, found.kind, found.reason, notes=verdict.notes)
        beside = found.gains.comparison(self.baseline.median_us(case, evaluation))
        return msgspec.structs.replace(
            verdict, kind=found.kind, reason=found.reason, regressed=found.regressed, baseline=beside
        )

    def judge_total(
        self,
        total: Total,
        cases: Sequence[Comparand],
        evaluations: Evaluations,
        request: EvaluationRequest,
        evaluate: Measuring,
        *,
        limit: float,
    ) -> Total | None:
        """The judgement over the shapes of a right kernel, under the same rule as that on one shape.

        evaluations: by shape id, of all cases; request: the prepared one that would measure them all together. None
        where the baseline has none of the shapes.
        """
        found = self._find(cases, evaluations, request, evaluate, limit=limit)
        if isinstance(found, str):
            return None
        return msgspec.structs.replace(total, kind=found.kind, reason=found.reason, regressed=found.regressed)

    def _find(
        self,
        cases: Sequence[Comparand],
        evaluations: Evaluations,
        request: EvaluationRequest,
        evaluate: Measuring,
        *,
        limit: float | None,
    ) -> Finding | str:
        """What the comparison amounts to, or why there is none; the figures are those of the last measurement."""
        if too_few := _too_few(evaluations[case.shape.id] for case in cases):
            return Finding("ambiguous", too_few, None)
        if unlike := self._unlike(cases, evaluations):
            return Finding("ambiguous", unlike, None)
        gains = self._gains(cases, evaluations)
        if isinstance(gains, str):
            return gains
        if limit is None or not self._is_beyond(gains, limit):
            rank = ranking(gains.interval(), floor=self.floor, limit=limit)
            slower = slower_kind(gains.kinds(), limit=self.floor)
            kind = "ambiguous" if slower and rank in ("faster", "same") and limit is None else rank
            return Finding(kind, self._words(gains, limit=self.floor), gains)
        if wrong := self._wrong(request, evaluate):
            right = [case for case in cases if case.shape.id not in wrong]
            if not right:
                return f"{self.baseline.name} is wrong here: {next(iter(wrong.values()))}"
            return self._find(right, evaluations, on(request, right), evaluate, limit=limit)
        parts = [confirmation(request, evaluations.values(), share=share) for share in CONFIRM_SHARES]
        return self._confirmed(gains, cases, parts, evaluate, limit=limit)

    def _confirmed(
        self,
        first: Gains,
        cases: Sequence[Comparand],
        parts: Sequence[EvaluationRequest],
        evaluate: Measuring,
        *,
        limit: float,
    ) -> Finding:
        """What a second measurement makes of a kernel that looked too slow; it goes on where it leaves that open.

        first: what it looked like; parts: what those of the second measurement ask.
        """
        second: Gains | None = None
        for part in parts:
            again = evaluate(part)
            if bad := next((x for x in again.values() if x.outcome != "ok"), None):
                where = f"{bad.shape}: " if len(cases) > 1 else ""
                return Finding(failing(bad), where + bad.reason, None)
            found = _too_few(again.values()) or self._unlike(cases, again) or self._gains(cases, again)
            if isinstance(found, str):
                return Finding("ambiguous", f"{self._words(first, limit=limit)}, not confirmed: {found}", first)
            second = found if second is None else second.continued(found)
            if self._is_beyond(second, limit, looks=len(parts)):
                return Finding("slower", f"{self._words(second, limit=limit)}, confirmed", second, regressed=True)
            if min(each.low for each in (second.interval(), *second.kinds().values())) >= -limit:
                break
        assert second is not None
        return Finding("ambiguous", f"{self._words(second, limit=limit)}, not confirmed", second)

    def _wrong(self, request: EvaluationRequest, evaluate: Measuring) -> dict[str, str]:
        """Shapes on which the baseline's kernel is no good, and why: to be slower than that is no regression."""
        if request.baseline is None:
            return {}
        check = msgspec.structs.replace(request, subject=request.baseline, baseline=None, peers=(), plan=None)
        return {shape: found.reason for shape, found in evaluate(check).items() if found.outcome != "ok"}

    def _unlike(self, cases: Sequence[Comparand], evaluations: Evaluations) -> str:
        """Why the baseline says nothing about what was measured on one of the shapes, or ""."""
        return next(filter(None, (self.baseline.unlike(case, evaluations[case.shape.id]) for case in cases)), "")

    def _gains(self, cases: Sequence[Comparand], evaluations: Evaluations) -> Gains | str:
        """The gains on all shapes that the baseline has, or why there are none."""
        found = [self.baseline.gains(case, evaluations[case.shape.id]) for case in cases]
        gains = [each for each in found if isinstance(each, Gains)]
        return Gains.of_all(gains) if gains else next(each for each in found if isinstance(each, str))

    def _is_beyond(self, gains: Gains, limit: float, *, looks: int = 1) -> bool:
        """Whether the kernel is slower than allowed beyond doubt, over all kinds of inputs or on one of them.

        looks: how many times that is asked of one measurement.
        """
        confidence = stats.of_each(self.confidence, looks)
        if not gains.by_kind:
            return gains.interval(confidence).high < -limit
        confidence = stats.of_each(confidence, 2)
        return gains.interval(confidence).high < -limit or bool(slower_kind(gains.kinds(confidence), limit=limit))

    def _words(self, gains: Gains, *, limit: float) -> str:
        """The change, and that on the kind of inputs where the kernel is slower than `limit` allows."""
        words = in_words(gains.interval(), self.baseline.name, gains.relative_to)
        by_kind = gains.kinds()
        if slower := slower_kind(by_kind, limit=limit):
            words += f"; on {slower} inputs {in_words(by_kind[slower], self.baseline.name, gains.relative_to)}"
        return words


def _too_few(evaluations: Iterable[Evaluation]) -> str:
    """Why some of them were timed in too few rounds, or ""."""
    return next((x.timing.too_few for x in evaluations if x.timing is not None and x.timing.too_few), "")


def until_decided(plan: TimingPlan, limit: float, *, risk: float) -> TimingPlan:
    """Measure until the kernel plainly is slower than allowed or plainly is not: most are decided in few rounds."""
    rounds = max(min(max(plan.min_rounds, LEAST_ROUNDS), plan.max_rounds), FEWEST_ROUNDS)
    most = PATIENCE * plan.max_rounds
    return msgspec.structs.replace(plan, margin=-limit, risk=risk, min_rounds=rounds, max_rounds=most)


def thorough(plan: TimingPlan) -> TimingPlan:
    """As many rounds as a question may take, over several launches, never cut short by a result."""
    rounds = plan.max_rounds if plan.margin is not None else PATIENCE * plan.max_rounds
    return msgspec.structs.replace(plan, launches=SAVED_LAUNCHES, max_rounds=rounds, margin=None, costs=False)


def on(request: EvaluationRequest, cases: Sequence[Comparand]) -> EvaluationRequest:
    """The request on the shapes of these cases alone."""
    return msgspec.structs.replace(request, shapes=tuple(case.shape for case in cases))


def confirmation(request: EvaluationRequest, first: Iterable[Evaluation], *, share: float) -> EvaluationRequest:
    """A part of the second measurement: new processes and inputs, in each launch a share of the first one's rounds.

    The kernel was found right before, as all are that pass; what it answers while it is timed is checked again.
    """
    assert request.plan is not None
    plan = msgspec.structs.replace(thorough(request.plan), launches=CONFIRM_LAUNCHES)
    if request.plan.margin is not None:
        decided = max(len(launch) for each in first if each.timing for launch in each.timing.seconds[KERNEL])
        rounds = CONFIRM_LAUNCHES * max(LEAST_ROUNDS, math.ceil(share * decided))
        plan = msgspec.structs.replace(plan, max_rounds=min(plan.max_rounds, rounds))
    peers = request.peers if request.baseline is None else ()
    return msgspec.structs.replace(request, plan=plan, peers=peers, fresh=True, claim_alone=True, known_right=True)


def in_words(gain: Interval, name: str, relative_to: str = "") -> str:
    """`4.1% slower than git:main, 95% interval 3.2 to 5.0%`: how much more, or less, time the kernel takes."""
    sign, word = (1, "faster") if gain.estimate > 0 else (-1, "slower")
    low, high = sorted(math.expm1(sign * x) for x in (gain.low, gain.high))
    beside = f" (relative to {relative_to})" if relative_to else ""
    change = f"{math.expm1(sign * gain.estimate):.1%} {word} than {name}{beside}"
    return f"{change}, 95% interval {low * 100:.1f} to {high:.1%}"
