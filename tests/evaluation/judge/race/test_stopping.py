"""When races end and which shapes they go on with, from figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from pytest_avo.core.evaluation import TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Launches, Located
from pytest_avo.evaluation.judge.race.stopping import Paired, Stopping, chance_of_rising
from tests.evaluation.laboratory import shape

QUIET, NOISY = shape(), shape(heads=(2, 2))
PEERS = ("peer",)


ROUND_S = {QUIET.id: 1.0, NOISY.id: 1.0}


def paired(gain: float, noise: Mapping[str, float], rounds: int, *, launches: int = 1) -> Paired:
    """Rounds that scatter evenly around a gain."""
    even = np.linspace(-1, 1, rounds)

    def of(shape: str, arm: str) -> Launches:
        return [(gain + noise[shape] * even).tolist() for _ in range(launches)]

    return of


def after(stopping: Stopping, rounds: int, found: Paired, spent_s: float = 1.0) -> str:
    return stopping.after_round(rounds, spent_s, found, others=PEERS, round_s=ROUND_S)


def launched(stopping: Stopping, launches: int, noise: float, *, slowest: float = 0.0) -> str:
    found = paired(0.2, {QUIET.id: noise}, 3, launches=launches)
    return stopping.after_launch(launches, found, others=PEERS, slowest=lambda: slowest)


SAME_NOISE = {QUIET.id: 0.02, NOISY.id: 0.02}


@pytest.mark.parametrize(
    ("gain", "reason"), [(0.10, "plainly faster"), (-0.10, "not faster"), (-0.005, "hardly can become faster")]
)
def test_a_margin_is_decided_at_the_first_look_where_it_is_plain(gain: float, reason: str) -> None:
    stopping = Stopping(TimingPlan(max_rounds=20, margin=0.003), [QUIET, NOISY], turns=3)
    assert after(stopping, 3, paired(gain, SAME_NOISE, 3)) == ""
    assert after(stopping, 6, paired(gain, SAME_NOISE, 6)) == reason
    early = Stopping(TimingPlan(min_rounds=3, max_rounds=20, margin=0.003), [QUIET, NOISY], turns=3)
    assert after(early, 3, paired(gain, SAME_NOISE, 3)) == reason


def test_what_may_still_become_faster_goes_on_until_all_rounds_are_made() -> None:
    stopping = Stopping(TimingPlan(max_rounds=20, margin=0.003), [QUIET, NOISY], turns=3)
    assert stopping.rounds == 21
    for rounds in (6, 9, 12, 21):
        assert after(stopping, rounds, paired(0.012, SAME_NOISE, rounds)) in ("", "plainly faster")
    assert after(stopping, 6, paired(0.012, SAME_NOISE, 6)) == ""


def test_only_who_had_to_be_faster_is_let_go() -> None:
    candidate, gated = (Stopping(TimingPlan(margin=margin), [QUIET], turns=1) for margin in (0.003, -0.03))
    assert [candidate.lets_go(reason) for reason in ("not faster", "plainly faster", "")] == [True, False, False]
    assert not gated.lets_go("not faster")


def test_a_limit_on_slowdowns_lets_nobody_go_before_it_is_decided() -> None:
    stopping = Stopping(TimingPlan(max_rounds=20, margin=-0.03), [QUIET], turns=1)
    assert after(stopping, 5, paired(-0.04, {QUIET.id: 0.02}, 5)) == ""


def test_further_rounds_go_to_the_shapes_whose_doubt_is_worth_their_time() -> None:
    stopping = Stopping(TimingPlan(max_rounds=40, margin=0.003), [QUIET, NOISY], turns=1)
    noise = {QUIET.id: 0.001, NOISY.id: 0.05}
    assert after(stopping, 5, paired(0.01, noise, 5)) == ""
    assert [each.id for each in stopping.open] == [NOISY.id]
    dear = Stopping(TimingPlan(max_rounds=40, margin=0.003), [QUIET, NOISY], turns=1)
    found = paired(0.01, {QUIET.id: 0.02, NOISY.id: 0.015}, 5)
    early = Stopping(TimingPlan(min_rounds=3, max_rounds=40, margin=0.003), [QUIET, NOISY], turns=1)
    assert after(early, 3, paired(0.01, noise, 3)) == ""
    assert len(early.open) == 2, "so few rounds do not tell which shape they vary on"
    dear.after_round(5, 1.0, found, others=PEERS, round_s={QUIET.id: 1.0, NOISY.id: 19.0})
    assert [each.id for each in dear.open] == [QUIET.id]


def test_without_a_margin_a_shape_is_done_when_its_own_interval_is_narrow() -> None:
    stopping = Stopping(TimingPlan(min_rounds=5, max_rounds=30), [QUIET, NOISY], turns=1)
    noise = {QUIET.id: 0.001, NOISY.id: 0.05}
    assert after(stopping, 4, paired(0.0, noise, 4)) == ""
    assert len(stopping.open) == 2
    assert after(stopping, 5, paired(0.0, noise, 5)) == ""
    assert [each.id for each in stopping.open] == [NOISY.id]
    assert after(stopping, 6, paired(0.0, {QUIET.id: 0.0, NOISY.id: 0.001}, 6)) == "intervals narrow enough"


def test_a_budget_is_shared_by_launches() -> None:
    stopping = Stopping(TimingPlan(max_rounds=40, launches=4, budget_s=2.0, margin=0.0), [QUIET], turns=1)
    assert after(stopping, 1, paired(0.0, {QUIET.id: 0.1}, 1), spent_s=0.4) == ""
    assert after(stopping, 1, paired(0.0, {QUIET.id: 0.1}, 1), spent_s=0.6) == "time budget of 2 s spent"


def test_launches_are_looked_at_and_rounds_within_them_are_not() -> None:
    stopping = Stopping(TimingPlan(max_rounds=24, launches=8, margin=0.003), [QUIET], turns=3)
    assert stopping.rounds == 3
    one = paired(0.2, {QUIET.id: 0.01}, 3)
    assert after(stopping, 3, one) == ""
    assert launched(stopping, 2, 0.1) == ""
    assert launched(stopping, 3, 0.01) == "plainly faster"


def test_two_launches_decide_what_is_plain_and_let_nobody_go() -> None:
    stopping = Stopping(TimingPlan(max_rounds=24, launches=8, margin=0.003), [QUIET], turns=3)
    assert launched(stopping, 2, 0.01) == "plainly faster"
    hardly = paired(-0.001, {QUIET.id: 0.01}, 3, launches=2)
    assert stopping.after_launch(2, hardly, others=PEERS, slowest=lambda: -0.01) == ""
    hardly = paired(-0.001, {QUIET.id: 0.01}, 3, launches=3)
    assert stopping.after_launch(3, hardly, others=PEERS, slowest=lambda: -0.01) == "hardly can become faster"


def test_a_kernel_that_may_be_slower_on_some_inputs_is_launched_as_often_as_it_may_be() -> None:
    stopping = Stopping(TimingPlan(max_rounds=24, launches=8, margin=0.003), [QUIET], turns=3)
    assert [launched(stopping, launches, 0.01, slowest=-0.1) for launches in (2, 3, 8)] == ["", "", "plainly faster"]
    assert launched(stopping, 2, 0.01, slowest=-0.005) == "plainly faster"


def test_where_looks_are_free_there_are_more_and_each_errs_by_all_of_the_risk() -> None:
    usual, free = (
        Stopping(TimingPlan(min_rounds=3, max_rounds=20, margin=0.003, looks_freely=freely), [QUIET], turns=3)
        for freely in (False, True)
    )
    plain = paired(0.1, SAME_NOISE, 9)
    assert (after(usual, 9, plain), after(free, 9, plain)) == ("", "plainly faster")
    noise = next(x for x in np.linspace(0.3, 0.01, 300) if after(free, 6, paired(0.1, {QUIET.id: x}, 6)))
    assert after(usual, 6, paired(0.1, {QUIET.id: noise}, 6)) == "", "which asks for more, since it looks four times"
    assert after(free, 8, plain) == "", "not every kind of inputs had its turn"


def test_where_looks_are_free_every_launch_from_the_second_on_is_looked_at() -> None:
    usual, free = (
        Stopping(TimingPlan(max_rounds=18, launches=6, margin=0.003, looks_freely=freely), [QUIET], turns=3)
        for freely in (False, True)
    )
    assert [launched(usual, launches, 0.01) for launches in (1, 5)] == ["", ""]
    assert [launched(free, launches, 0.01) for launches in (1, 2, 5)] == ["", "plainly faster", "plainly faster"]


def test_launches_without_a_margin_go_on_until_all_shapes_together_are_known_well() -> None:
    stopping = Stopping(TimingPlan(max_rounds=27, launches=9, precision=0.03), [QUIET], turns=3)
    assert launched(stopping, 3, 0.001) == "", "a launch that lies apart may be one of three"
    assert launched(stopping, 4, 0.001) == "interval narrow enough"
    assert launched(stopping, 4, 0.2) == ""
    three = Stopping(TimingPlan(max_rounds=9, launches=3), [QUIET], turns=3)
    assert launched(three, 3, 0.0) == ""


def test_the_chance_of_rising_is_what_simulated_comparisons_come_to() -> None:
    random, deviation, total, done = np.random.default_rng(5), 0.02, 20, 8
    first = 0.004
    truth = random.normal(first, deviation / math.sqrt(done), 20_000)
    rest = random.normal(truth, deviation / math.sqrt(total - done))
    final = (done * first + (total - done) * rest) / total
    share = float(np.mean(final - 2.326 * deviation / math.sqrt(total) > 0.003))
    found = Located(first, deviation**2 / done, done - 1)
    assert chance_of_rising(found, 0.003, done / total) == pytest.approx(share, abs=0.02)
    assert chance_of_rising(found, 0.003, 1.0) == 0.0


def test_shapes_are_given_by_their_weights() -> None:
    heavy = Shape(**{name: getattr(NOISY, name) for name in NOISY.__struct_fields__} | {"weight": 9.0})
    stopping = Stopping(TimingPlan(max_rounds=40, margin=0.003), [QUIET, heavy], turns=1)
    found = paired(0.01, {QUIET.id: 0.03, heavy.id: 0.03}, 5)
    stopping.after_round(5, 1.0, found, others=PEERS, round_s={QUIET.id: 1.0, heavy.id: 1.0})
    assert [each.weight for each in stopping.open] == [9.0]
