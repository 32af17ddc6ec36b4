"""The commit rule: what evaluations of a candidate amount to against its parent and the noise."""

from __future__ import annotations

import math
import runpy
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Outcome, Timing, TimingPlan
from pytest_avo.core.ranking import ONE_SIDED_99, gains_by_kind, geomean_gain, noise_floor
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import judge
from pytest_avo.evolution.decision import (
    COMPARE_LAUNCHES,
    CONFIRM_LAUNCHES,
    SEED_ROUNDS,
    comparison,
    confirmation,
    decide,
    screening,
)
from tests import ROOT
from tests.core.gains import ONE, TWO, both, of_kinds, timed

FLOOR = 0.003


def ranking(
    evaluations: Mapping[str, Evaluation], *, floor: float = FLOOR, shapes: Sequence[Shape] = (ONE, TWO)
) -> str:
    return decide(evaluations, shapes, floor=floor).ranking


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (0.05, 0.05, "faster"),
        (0.20, -0.05, "faster"),
        (0.0, 0.0, "same"),
        (0.02, -0.02, "same"),
        (-0.05, -0.05, "slower"),
        (0.05, -0.20, "slower"),
        (0.003, 0.003, "same"),
    ],
)
def test_the_geomean_over_shapes_decides(one: float, two: float, expected: str) -> None:
    assert ranking(both(one, two)) == expected


def test_a_gain_must_clear_the_noise_with_its_lower_bound() -> None:
    assert ranking(both(0.02, 0.02), floor=0.015) == "faster"
    assert ranking(both(0.02, 0.02), floor=0.02) == "ambiguous"
    leaning = "leaning: whether by more than 2.00% is open"
    assert decide(both(0.02, 0.02), (ONE, TWO), floor=0.02).reason == f"faster-{leaning}"
    assert decide(both(-0.02, -0.02), (ONE, TWO), floor=0.02).reason == f"slower-{leaning}"
    unclear = decide(both(0.0, 0.0, noise=0.2), (ONE, TWO), floor=0.02)
    assert unclear.reason == "its interval holds faster and slower"
    assert ranking(both(0.02, 0.02), floor=0.03) == "ambiguous"
    assert ranking(both(0.02, 0.02, noise=0.2)) == "ambiguous"


def test_what_takes_eight_times_as_long_is_slower_however_busy_the_machine_is() -> None:
    """By the three rounds after which it is let go, whose ratios deviate by a half; an equal one seldom is."""

    def words(gain: float) -> Counter[str]:
        random = np.random.default_rng(1)
        return Counter(
            ranking({x.id: few_rounds(x, random.normal(gain, 0.5, 3).tolist()) for x in (ONE, TWO)}) for _ in range(60)
        )

    assert words(math.log(1 / 8))["slower"] >= 54
    assert words(0.0)["slower"] <= 4, "one in twenty, by what the word means"
    assert words(math.log(8))["faster"] <= 50, "what promotes is asked more"


def few_rounds(shape: Shape, gains: Sequence[float]) -> Evaluation:
    kernel, baseline = tuple(math.exp(-x) for x in gains), (1.0,) * len(gains)
    timing = Timing({KERNEL: (kernel,), BASELINE: (baseline,)}, calls=1, stopped="hardly can become faster")
    return Evaluation(shape.id, "ok", timing=timing)


def test_the_gain_is_a_log_ratio_to_the_parent() -> None:
    decision = decide(both(0.04, 0.08), (ONE, TWO), floor=FLOOR)
    assert decision.reason == ""
    assert decision.gain is not None
    assert decision.gain.estimate == pytest.approx(0.06, abs=0.001)
    assert decision.gain.low < 0.06 < decision.gain.high


def test_99_percent_bounds_are_wider_than_those_of_95_percent() -> None:
    evaluations = both(0.05, 0.05, noise=0.02)
    decision = decide(evaluations, (ONE, TWO), floor=FLOOR)
    assert decision.gain is not None
    assert decision.gain.half_width > geomean_gain(evaluations, (ONE, TWO), confidence=0.90).half_width


@pytest.mark.parametrize("outcome", ["incorrect", "crashed", "timeout", "rejected", "unsupported"])
def test_one_bad_shape_leaves_no_score(outcome: Outcome) -> None:
    evaluations = {ONE.id: timed(ONE, gain=5.0), TWO.id: Evaluation(TWO.id, outcome, "because")}
    decision = decide(evaluations, (ONE, TWO), floor=FLOOR)
    assert (decision.ranking, decision.gain) == (outcome, None)
    assert decision.reason == f"{TWO.id}: because"


def test_the_first_bad_shape_gives_the_reason_and_the_rest_are_counted() -> None:
    evaluations = {x.id: Evaluation(x.id, "crashed", "process killed") for x in (ONE, TWO)}
    decision = decide(evaluations, (ONE, TWO), floor=FLOOR)
    assert decision.reason == f"{ONE.id}: process killed (2 of 2 shapes)"


def test_launches_that_disagree_are_not_believed() -> None:
    seconds = [timed(ONE, gain=gain, seed=seed).timing for seed, gain in enumerate((0.002, 0.03, -0.02))]
    joined = {
        arm: tuple(launch for timing in seconds if timing for launch in timing.seconds[arm])
        for arm in (KERNEL, BASELINE)
    }
    evaluation = Evaluation(ONE.id, "ok", timing=Timing(joined, calls=1, stopped=""))
    assert ranking({ONE.id: evaluation}, shapes=(ONE,)) == "ambiguous"


def test_a_kernel_is_seldom_faster_than_itself() -> None:
    """Of 200 A/A comparisons one in a hundred looks faster by its interval, whatever the noise."""
    floor = noise_floor({ONE.id: timed(ONE, gain=0.0, noise=0.05, seed=12345)}, (ONE,))
    assert floor == FLOOR
    alarms = sum(
        ranking({ONE.id: timed(ONE, gain=0.0, noise=0.05, seed=seed)}, floor=floor, shapes=(ONE,)) == "faster"
        for seed in range(200)
    )
    assert alarms <= 4


def test_screening_stops_when_it_is_plain_and_so_does_a_confirmation_between_launches() -> None:
    plan = TimingPlan(max_rounds=30)
    screen = screening(plan, floor=0.01)
    assert (screen.min_rounds, screen.max_rounds, screen.margin, screen.launches) == (3, 20, 0.01, 1)
    assert (screen.looks_freely, 1 - 2 * screen.risk) == (True, ONE_SIDED_99), "at each look what `faster` is said by"
    seed = screening(plan, floor=None)
    assert (seed.min_rounds, seed.max_rounds, seed.margin) == (plan.min_rounds, SEED_ROUNDS, None)
    confirm = confirmation(plan, floor=0.01)
    assert (confirm.launches, confirm.margin) == (CONFIRM_LAUNCHES, 0.01)
    assert confirm.max_rounds == 3 * CONFIRM_LAUNCHES
    assert (confirm.looks_freely, confirm.risk) == (True, screen.risk)
    assert confirmation(TimingPlan(max_rounds=2), floor=None).max_rounds == 2 * CONFIRM_LAUNCHES
    fixed = comparison(plan)
    assert (fixed.launches, fixed.margin, fixed.max_rounds) == (COMPARE_LAUNCHES, None, 3 * COMPARE_LAUNCHES)
    assert screening(TimingPlan(max_rounds=4), floor=None).max_rounds == 4


def test_confirmations_promote_what_does_not_gain_in_less_than_one_of_a_hundred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who gains as much as the floor and no more, the worst case, without the screening that comes before."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rule = runpy.run_path(str(ROOT / "benchmarks/promotion_rule.py"))
    machine = rule["Machine"](0.05, seed=7)
    assert sum(rule["confirmed"](machine, FLOOR)[0] for _ in range(300)) <= 3
    assert sum(rule["confirmed"](machine, 0.2)[0] for _ in range(30)) == 30


def test_too_few_rounds_make_no_gain() -> None:
    timing = Timing({KERNEL: ((1.0,),), BASELINE: ((2.0,),)}, calls=1, stopped="", too_few="1 round")
    decision = decide({ONE.id: Evaluation(ONE.id, "ok", timing=timing)}, [ONE], floor=0.0)
    assert (decision.ranking, decision.reason, decision.gain) == ("ambiguous", "1 round", None)


def test_what_was_not_timed_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match=f"{ONE.id} was not timed"):
        decide({ONE.id: Evaluation(ONE.id, "ok")}, (ONE,), floor=FLOOR)


def test_kinds_of_inputs_count_alike_and_none_may_be_lost() -> None:
    gained = {"normal": 0.2, "spread": 0.001, "sink": 0.1}
    decision = decide({ONE.id: of_kinds(ONE, gained)}, [ONE], floor=FLOOR)
    assert decision.ranking == "faster"
    assert decision.gain is not None
    assert decision.gain.estimate == pytest.approx(0.1, abs=0.002)
    lost = {**gained, "spread": -0.1}
    for evaluations in ({ONE.id: of_kinds(ONE, lost)}, {ONE.id: of_kinds(ONE, lost, launches=3, rounds=3)}):
        decision = decide(evaluations, [ONE], floor=FLOOR)
        assert decision.ranking == "rejected"
        assert decision.reason.startswith("slower than the incumbent on spread inputs, 0.905x [0.")
        assert decision.gain is not None


def test_a_loss_on_one_kind_of_inputs_must_be_beyond_doubt_and_show_over_all_shapes() -> None:
    lost = {"normal": 0.1, "spread": -0.02}
    assert decide({ONE.id: of_kinds(ONE, lost)}, [ONE], floor=0.03).ranking == "faster"
    made_up = {ONE.id: of_kinds(ONE, lost), TWO.id: of_kinds(TWO, {"normal": 0.1, "spread": 0.06})}
    assert decide(made_up, [ONE, TWO], floor=FLOOR).ranking == "faster"


def test_a_loss_on_one_kind_that_is_likely_but_not_sure_is_told() -> None:
    """As on a busy machine, where a kernel at half the speed for sinks was promoted."""
    gained = {"normal": 1.2, "spread": 1.2, "sink": -0.4}
    doubtful = decide({ONE.id: of_kinds(ONE, gained, rounds=1, launches=6, noise=0.2)}, [ONE], floor=FLOOR)
    assert doubtful.ranking == "faster"
    assert doubtful.doubt.startswith("likely slower than the incumbent on sink inputs, 0.")
    assert decide({ONE.id: of_kinds(ONE, gained, rounds=1, launches=6)}, [ONE], floor=FLOOR).ranking == "rejected"
    honest = {"normal": 1.2, "spread": 1.2, "sink": 0.0}
    assert decide({ONE.id: of_kinds(ONE, honest, rounds=1, launches=6)}, [ONE], floor=FLOOR).doubt == ""


def test_a_single_round_of_a_kind_says_nothing_of_that_kind() -> None:
    """It has an interval without width: candidates screened in one turn of the kinds would be rejected by chance."""
    once = {"normal": 0.21, "spread": 0.20, "sink": -0.001}
    evaluations = {shape.id: of_kinds(shape, once, rounds=1) for shape in (ONE, TWO)}
    assert gains_by_kind(evaluations, (ONE, TWO), confidence=0.98) == {}
    assert decide(evaluations, (ONE, TWO), floor=FLOOR).ranking != "rejected"
    assert judge(evaluations[ONE.id], ONE, floor=FLOOR).baseline.kinds == {}  # type: ignore[union-attr]
    twice = evaluations | {TWO.id: of_kinds(TWO, once, rounds=2)}
    assert set(gains_by_kind(twice, (ONE, TWO), confidence=0.98)) == set(once)


def test_a_kernel_that_is_slower_over_all_is_called_that() -> None:
    assert decide({ONE.id: of_kinds(ONE, {"normal": 0.1, "spread": -0.5})}, [ONE], floor=FLOOR).ranking == "slower"
