"""Which slowdowns fail: limits, second measurements, shapes without a baseline, geomeans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pytest_avo.core.evaluation import (
    BASELINE,
    KERNEL,
    Evaluation,
    EvaluationRequest,
    Outcome,
    Subject,
    Timing,
    TimingPlan,
)
from pytest_avo.core.kernel import parse_kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Total, Verdict
from pytest_avo.gate.gains import Comparand
from pytest_avo.gate.gate import Gate, in_words, until_decided
from pytest_avo.gate.refs import GitBaseline
from pytest_avo.gate.rules import parse_rules
from tests.core.gains import of_kinds
from tests.report.result_rows import shape

SHAPE = shape()
CASE = Comparand(parse_kernel("", path=Path("/nowhere/a.py")), "a.py", SHAPE)
NOISE = 0.004
OLD = Subject("a.py (git:main)", "old")


def timed(slowdown: float, *, launches: int = 1, rounds: int = 30, of: Shape = SHAPE, seed: int = 0) -> Evaluation:
    """A kernel that takes `slowdown` more time than its baseline, with noise of 0.4% in every slice."""
    random = np.random.default_rng(seed)
    old = tuple(tuple(np.exp(NOISE * random.standard_normal(rounds))) for _ in range(launches))
    new = tuple(tuple((1 + slowdown) * np.exp(NOISE * random.standard_normal(rounds))) for _ in range(launches))
    return Evaluation(of.id, "ok", timing=Timing({KERNEL: new, BASELINE: old}, calls=1, stopped=""))


class Bench:
    """Answers second measurements with what the test says, and keeps the requests."""

    def __init__(self, *second: Evaluation, wrong: Sequence[str] = ()) -> None:
        """wrong: shapes on which the baseline fails its check."""
        self.second = {evaluation.shape: evaluation for evaluation in second}
        self.wrong = wrong
        self.requests: list[EvaluationRequest] = []

    def __call__(self, request: EvaluationRequest) -> dict[str, Evaluation]:
        if request.plan is None:
            assert (request.subject, request.baseline) == (OLD, None)
            outcomes: dict[str, Outcome] = {x.id: "incorrect" if x.id in self.wrong else "ok" for x in request.shapes}
            return {shape: Evaluation(shape, outcome, "max error 3") for shape, outcome in outcomes.items()}
        self.requests.append(request)
        return {shape.id: self.second[shape.id] for shape in request.shapes}


def gate(*rules: str, lenient: bool = False, comparisons: int = 1) -> Gate:
    baseline = GitBaseline("main", "0" * 40, Path("/nowhere"))
    return Gate(baseline, parse_rules(rules, []), lenient=lenient, floor=0.01, comparisons=comparisons)


def request(*shapes: Shape) -> EvaluationRequest:
    plan = TimingPlan(max_rounds=30)
    return EvaluationRequest(0, Subject("a.py", ""), shapes, plan=plan, baseline=OLD, peers=("fa3",))


def judged(by: Gate, first: Evaluation, bench: Bench) -> Verdict:
    return by.judge(Verdict(SHAPE.id, "correct"), CASE, first, request(SHAPE), bench)


def test_a_slowdown_beyond_the_limit_that_is_seen_twice_fails_with_the_second_figures() -> None:
    bench = Bench(timed(0.06, launches=3, seed=1))
    verdict = judged(gate("3%"), timed(0.08), bench)
    assert (verdict.kind, verdict.regressed, verdict.passes) == ("slower", True, False)
    assert verdict.reason.startswith(("5.", "6."))
    assert verdict.reason.endswith("%, confirmed")
    assert " slower than git:main, 95% interval " in verdict.reason
    (again,) = bench.requests
    assert again.fresh
    assert again.known_right, "a kernel that passes is not asked twice either"
    assert again.plan is not None
    assert (again.plan.launches, again.plan.max_rounds, again.plan.margin) == (4, 120, None)
    assert again.peers == (), "peers say nothing about a regression"


@pytest.mark.parametrize(("rounds", "most"), [(6, 24), (32, 32), (120, 120)])
def test_a_second_measurement_takes_a_quarter_of_the_first_ones_rounds_a_launch(rounds: int, most: int) -> None:
    bench = Bench(timed(0.08, launches=3, seed=1))
    wanted = request(SHAPE)
    assert wanted.plan is not None
    wanted = msgspec.structs.replace(wanted, plan=until_decided(wanted.plan, 0.03, risk=0.025))
    verdict = gate("3%").judge(Verdict(SHAPE.id, "correct"), CASE, timed(0.08, rounds=rounds), wanted, bench)
    assert verdict.regressed
    assert [again.plan and (again.plan.launches, again.plan.max_rounds) for again in bench.requests] == [(4, most)]


def test_a_slowdown_that_is_seen_once_is_ambiguous_and_passes() -> None:
    verdict = judged(gate("3%"), timed(0.08), Bench(timed(0.0, launches=3, seed=1)))
    assert (verdict.kind, verdict.passes) == ("ambiguous", True)
    assert verdict.reason.endswith("not confirmed")


def test_a_second_measurement_that_leaves_it_open_goes_on_and_all_of_it_counts() -> None:
    class Going(Bench):
        def __call__(self, request: EvaluationRequest) -> dict[str, Evaluation]:
            parts = [timed(0.033, launches=4, rounds=6, seed=seed) for seed in (1, 2, 3)]
            return super().__call__(request) and {SHAPE.id: parts[len(self.requests) - 1]}

    bench = Going(timed(0.0))
    verdict = judged(gate("3%"), timed(0.08), bench)
    assert len(bench.requests) > 1
    assert (verdict.kind, verdict.regressed) == ("slower", True)
    never = Bench(timed(0.03, launches=3, rounds=6, seed=1))
    assert judged(gate("3%"), timed(0.08), never).reason.endswith("not confirmed")
    assert len(never.requests) == 3


def test_a_kernel_that_is_wrong_on_the_second_inputs_is_wrong() -> None:
    wrong = Evaluation(SHAPE.id, "incorrect", "max error 3")
    verdict = judged(gate("3%"), timed(0.08), Bench(wrong))
    assert (verdict.kind, verdict.reason, verdict.passes) == ("incorrect", "max error 3", False)


@pytest.mark.parametrize(("rules", "lenient", "passes"), [(("3%",), False, False), (("3%",), True, True)])
def test_to_be_slower_than_a_wrong_kernel_is_no_regression(rules: Sequence[str], lenient: bool, passes: bool) -> None:
    bench = Bench(wrong=[SHAPE.id])
    verdict = judged(gate(*rules, lenient=lenient), timed(0.5), bench)
    assert (verdict.kind, verdict.unmatched, verdict.passes, bench.requests) == ("correct", True, passes, [])
    assert verdict.reason == "git:main is wrong here: max error 3"


@pytest.mark.parametrize(
    ("slowdown", "kind"), [(0.0, "same"), (0.02, "slower"), (0.03, "ambiguous"), (-0.05, "faster")]
)
def test_what_is_not_plainly_beyond_the_limit_is_measured_once_and_passes(slowdown: float, kind: str) -> None:
    bench = Bench()
    verdict = judged(gate("3%"), timed(slowdown), bench)
    assert (verdict.kind, verdict.passes, bench.requests) == (kind, True, [])
    assert verdict.baseline is not None
    assert verdict.baseline.ratio == pytest.approx(1 / (1 + slowdown), abs=0.01)


def test_without_a_limit_comparing_only_reports() -> None:
    bench = Bench()
    verdict = judged(gate(), timed(0.5), bench)
    assert (verdict.kind, verdict.passes, bench.requests) == ("slower", True, [])


@pytest.mark.parametrize(
    ("rules", "lenient", "passes"), [(("3%",), False, False), (("3%",), True, True), ((), False, True)]
)
def test_a_shape_without_a_baseline_fails_unless_the_user_is_lenient(
    rules: Sequence[str], lenient: bool, passes: bool
) -> None:
    alone = Evaluation(SHAPE.id, "ok", timing=Timing({KERNEL: ((1.0, 1.0),)}, calls=1, stopped=""))
    verdict = judged(gate(*rules, lenient=lenient), alone, Bench())
    assert (verdict.kind, verdict.unmatched, verdict.passes) == ("correct", True, passes)
    assert verdict.reason == "git:main has no a.py"


def test_a_wrong_kernel_is_not_compared() -> None:
    verdict = Verdict(SHAPE.id, "incorrect", "max error 3")
    assert gate("3%").judge(verdict, CASE, Evaluation(SHAPE.id, "incorrect"), request(SHAPE), Bench()) == verdict


def test_the_more_comparisons_the_wider_the_intervals_that_decide() -> None:
    assert gate("3%").confidence == pytest.approx(0.95)
    assert gate("3%", comparisons=16).confidence == pytest.approx(0.95)
    assert gate("3%", comparisons=400).confidence == pytest.approx(0.99)


def test_a_run_of_unchanged_kernels_fails_once_in_a_hundred_at_most() -> None:
    """At the limit itself, where the chance is greatest."""
    by, failures = gate("3%", comparisons=4), 0
    for seed in range(300):
        bench = Bench(timed(0.03, launches=3, rounds=12, seed=2 * seed + 1))
        failures += judged(by, timed(0.03, seed=2 * seed), bench).regressed
    assert failures <= 3


def test_a_decision_takes_a_few_rounds_however_few_the_user_allows() -> None:
    plan = until_decided(TimingPlan(min_rounds=3, max_rounds=3), 0.03, risk=0.025)
    assert (plan.min_rounds, plan.max_rounds) == (5, 12)


def test_with_a_limit_the_kernel_is_timed_until_that_is_decided() -> None:
    plain = EvaluationRequest(0, Subject("a.py", "new"), (SHAPE,), plan=TimingPlan(max_rounds=8))
    by = gate("3%")
    assert by.prepared(plain, CASE.kernel, 0.03) == plain, "there is no such file at the ref"


def test_a_geomean_is_judged_by_the_same_rule() -> None:
    shapes = [shape(seqlen=512), shape(seqlen=1024, weight=3.0)]
    cases = [Comparand(CASE.kernel, "a.py", each) for each in shapes]
    total = Total("a.py", "geomean", "same", "")

    def judged_total(first: float, second: float, *wrong: str) -> Total:
        evaluations = {x.id: timed(first, of=x, seed=i) for i, x in enumerate(shapes)}
        bench = Bench(*(timed(second, launches=3, of=x, seed=i + 7) for i, x in enumerate(shapes)), wrong=wrong)
        by = gate("geomean:1%")
        found = by.judge_total(total, cases, evaluations, request(*shapes), bench, limit=math.log1p(0.01))
        assert found is not None
        return found

    failed = judged_total(0.03, 0.03)
    assert (failed.kind, failed.regressed, failed.passes) == ("slower", True, False)
    assert failed.reason.startswith(("2.", "3."))
    assert failed.reason.endswith("confirmed")
    assert judged_total(0.0, 0.5).passes
    assert judged_total(0.03, 0.0).kind == "ambiguous"
    assert judged_total(0.03, 0.03, shapes[0].id).regressed, "the other shape counts"


def test_a_gain_in_words() -> None:
    slower = Interval(-math.log(1.041), -math.log(1.05), -math.log(1.032))
    assert in_words(slower, "git:main") == "4.1% slower than git:main, 95% interval 3.2 to 5.0%"
    faster = Interval(math.log(1.02), math.log(0.99), math.log(1.05))
    assert in_words(faster, "git:main") == "2.0% faster than git:main, 95% interval -1.0 to 5.0%"


def test_a_slowdown_on_one_kind_of_inputs_fails_although_others_make_up_for_it() -> None:
    made_for_normal = of_kinds(SHAPE, {"normal": 0.2, "spread": -0.1}, rounds=15)
    bench = Bench(of_kinds(SHAPE, {"normal": 0.2, "spread": -0.1}, rounds=12, launches=3))
    verdict = judged(gate("median:3%"), made_for_normal, bench)
    assert (verdict.kind, verdict.regressed) == ("slower", True)
    assert "; on spread inputs 10.5% slower than git:main" in verdict.reason
    assert verdict.baseline is not None
    assert set(verdict.baseline.kinds) == {"normal", "spread"}
    verdict = judged(gate(), made_for_normal, Bench())
    assert (verdict.kind, verdict.regressed) == ("ambiguous", False)
    verdict = judged(gate("median:15%"), made_for_normal, Bench())
    assert (verdict.kind, verdict.regressed) == ("faster", False)
