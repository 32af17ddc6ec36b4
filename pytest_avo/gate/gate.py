"""The gate: which slowdowns fail.

A kernel fails on a shape when two measurements, each in processes and on inputs of its own, both show it slower than
allowed: the whole interval of its slowdown lies beyond the limit. The intervals are as wide as it takes for a run
whose kernels all are exactly as slow as allowed to fail once in a hundred times: with m comparisons, each measurement
errs with probability at most sqrt(1% / m), both together with 1% / m, and all comparisons with 1% (Bonferroni, which
unlike Holm's procedure needs no other comparison's result: items are judged one by one, on any worker).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_avo.core import stats
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Kind, Total, Verdict, judge
from pytest_avo.gate.gains import Case, Gains
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.refs import PREFIX, GitBaseline, at_ref
from pytest_avo.gate.rules import Rules

RISK = 0.01
"""Chance that a run fails although no kernel is slower than allowed."""
WIDEST_TAIL = 0.025
"""An interval is never narrower than the 95% one that is shown."""
LEAST_ROUNDS = 10
CONFIRM_LAUNCHES = 5
CONFIRM_ROUNDS = 60

Evaluate = Callable[[EvaluationRequest], Mapping[str, Evaluation]]
"""Evaluate and wait: shape id -> facts. EvaluatorError when the machine fails."""


@dataclass(slots=True)
class Gate:
    """Judges kernels beside a baseline."""

    baseline: GitBaseline
    rules: Rules
    lenient: bool
    """Shapes that the baseline lacks are listed, not failed."""
    floor: float
    """Log-ratio below which two kernels count as the same."""
    comparisons: int = 1
    """How many the run makes."""

    @property
    def confidence(self) -> float:
        """Of the intervals that decide."""
        return 1 - 2 * min(WIDEST_TAIL, math.sqrt(RISK / max(1, self.comparisons)))

    def prepared(self, request: EvaluationRequest, kernel: Kernel, limit: float | None) -> EvaluationRequest:
        """The request with the baseline's arm and, where there is a limit, timed until that is decided."""
        subject = self.baseline.subject(kernel)
        if subject is None or request.plan is None:
            return request
        plan = request.plan if limit is None else until_decided(request.plan, limit)
        return msgspec.structs.replace(request, baseline=subject, may_lack_baseline=True, plan=plan)

    def judge(
        self, verdict: Verdict, case: Case, evaluation: Evaluation, request: EvaluationRequest, evaluate: Evaluate
    ) -> Verdict:
        """The verdict on a right kernel beside the baseline; what looks too slow is measured once more, which blocks.

        request: the prepared one that was answered by `evaluation`.
        """
        if not verdict.is_good or evaluation.timing is None:
            return verdict
        gains = self.baseline.gains(case, evaluation)
        limit = self.limit(case)
        if isinstance(gains, str):
            fails = bool(self.rules) and not self.lenient
            return msgspec.structs.replace(verdict, reason=gains, unmatched=True, regressed=fails)
        shown = gains.interval()
        verdict = msgspec.structs.replace(
            verdict, kind=ranking(shown, self.floor, limit), reason=self._words(shown), baseline=gains.comparison()
        )
        if limit is None or not self._is_beyond(gains.interval(confidence=self.confidence), limit):
            return verdict
        return self._confirmed(verdict, case, limit, evaluate(confirmation(request))[case.shape.id])

    def _confirmed(self, verdict: Verdict, case: Case, limit: float, evaluation: Evaluation) -> Verdict:
        """The verdict after a second measurement in fresh processes, whose figures replace the first one's."""
        if evaluation.outcome != "ok":
            return judge(evaluation, case.shape, floor=self.floor)
        gains = self.baseline.gains(case, evaluation)
        if isinstance(gains, str):
            return msgspec.structs.replace(verdict, kind="ambiguous", reason=f"{verdict.reason}, then {gains}")
        shown = gains.interval()
        verdict = msgspec.structs.replace(verdict, baseline=gains.comparison())
        if self._is_beyond(gains.interval(confidence=self.confidence), limit):
            reason = f"{self._words(shown)}, confirmed"
            return msgspec.structs.replace(verdict, kind="slower", reason=reason, regressed=True)
        return msgspec.structs.replace(verdict, kind="ambiguous", reason=f"{self._words(shown)}, not confirmed")

    def _geomean(self, cases: Sequence[Case], evaluations: Mapping[str, Evaluation]) -> Callable[[float], Interval]:
        """The interval of the weighted geomean over the shapes that the baseline has, for any confidence."""
        found = {case.shape: self.baseline.gains(case, evaluations[case.shape.id]) for case in cases}
        launches = {shape.id: gains.launches for shape, gains in found.items() if isinstance(gains, Gains)}
        weights = {shape.id: shape.weight for shape in found}
        return lambda confidence: stats.geomean_interval(launches, weights, confidence=confidence)

    def has_any(self, cases: Sequence[Case], evaluations: Mapping[str, Evaluation]) -> bool:
        """Whether the baseline has one of the shapes."""
        return any(isinstance(self.baseline.gains(case, evaluations[case.shape.id]), Gains) for case in cases)

    def judge_total(
        self,
        total: Total,
        cases: Sequence[Case],
        evaluations: Mapping[str, Evaluation],
        request: EvaluationRequest,
        evaluate: Evaluate,
        *,
        limit: float,
    ) -> Total:
        """The judgement over the shapes of a right kernel, under the same rule as that on one shape.

        evaluations: by shape id, of all cases; request: the prepared one that would measure them all together.
        ValueError where the baseline has none of the shapes, see `has_any`.
        """
        gain = self._geomean(cases, evaluations)
        kind, reason = ranking(gain(0.95), self.floor, limit), self._words(gain(0.95))
        if not self._is_beyond(gain(self.confidence), limit):
            return msgspec.structs.replace(total, kind=kind, reason=reason)
        again = evaluate(confirmation(request))
        if bad := [evaluation for evaluation in again.values() if evaluation.outcome != "ok"]:
            return msgspec.structs.replace(total, kind=bad[0].outcome, reason=f"{bad[0].shape}: {bad[0].reason}")
        gain = self._geomean(cases, again)
        if self._is_beyond(gain(self.confidence), limit):
            reason = f"{self._words(gain(0.95))}, confirmed"
            return msgspec.structs.replace(total, kind="slower", reason=reason, regressed=True)
        return msgspec.structs.replace(total, kind="ambiguous", reason=f"{self._words(gain(0.95))}, not confirmed")

    def limit(self, case: Case) -> float | None:
        """The limit on the slowdown of one shape's median."""
        return self.rules.limit("median", kernel=case.name, suites=case.suites)

    def _is_beyond(self, gain: Interval, limit: float) -> bool:
        return gain.high < -limit

    def _words(self, gain: Interval) -> str:
        return in_words(gain, self.baseline.name)


def open_gate(settings: GateSettings, rootdir: Path, *, floor: float) -> Gate | None:
    """The gate that the user asked for, or None; InvalidInput where there is no such baseline."""
    if settings.compare is None:
        return None
    baseline = at_ref(settings.compare.removeprefix(PREFIX), rootdir)
    return Gate(baseline, settings.rules, lenient=settings.lenient, floor=floor)


def until_decided(plan: TimingPlan, limit: float) -> TimingPlan:
    """Measure until the kernel plainly is slower than allowed or plainly is not."""
    rounds = min(max(plan.min_rounds, LEAST_ROUNDS), plan.max_rounds)
    return msgspec.structs.replace(plan, margin=-limit, min_rounds=rounds)


def confirmation(request: EvaluationRequest) -> EvaluationRequest:
    """The same once more: new processes, launch after launch, new inputs, a fixed number of rounds."""
    assert request.plan is not None
    rounds = min(CONFIRM_LAUNCHES * request.plan.max_rounds, CONFIRM_ROUNDS)
    plan = msgspec.structs.replace(request.plan, launches=CONFIRM_LAUNCHES, max_rounds=rounds, margin=None)
    peers = request.peers if request.baseline is None else ()
    return msgspec.structs.replace(request, plan=plan, peers=peers, fresh=True)


def ranking(gain: Interval, floor: float, limit: float | None) -> Kind:
    """Faster, same, slower or ambiguous by the 95% interval of the log-ratio old time / new time.

    With a limit the question is whether the kernel is slower than allowed: ambiguous where the interval leaves that
    open, slower where it is slower beyond noise and yet within what is allowed. Without one, noise is the measure.
    """
    if gain.low > floor:
        return "faster"
    if limit is not None and gain.low < -limit:
        return "ambiguous"
    if gain.high < -floor:
        return "slower"
    return "same" if limit is not None or (-floor <= gain.low and gain.high <= floor) else "ambiguous"


def in_words(gain: Interval, name: str) -> str:
    """`4.1% slower than git:main, 95% interval 3.2 to 5.0%`: how much more, or less, time the kernel takes."""
    sign, word = (1, "faster") if gain.estimate > 0 else (-1, "slower")
    low, high = sorted(math.expm1(sign * x) for x in (gain.low, gain.high))
    change = math.expm1(sign * gain.estimate)
    return f"{change:.1%} {word} than {name}, 95% interval {low * 100:.1f} to {high:.1%}"
