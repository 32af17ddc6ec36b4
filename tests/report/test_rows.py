from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.verdict import judge
from pytest_avo.report.rows import arms, by_kernel, comparisons, geomeans, result_row
from tests.report.result_rows import beside, row, shape


def test_a_row_takes_samples_and_seed_from_the_evaluation() -> None:
    one = shape()
    timing = Timing(seconds={KERNEL: ((0.1, 0.2), (0.3,)), "torch-sdpa": ((0.2, 0.4), (0.6,))}, calls=4, stopped="")
    evaluation = Evaluation(one.id, "ok", seed=11, device="AMD EPYC", timing=timing)
    made = result_row(evaluation, judge(evaluation, one, floor=0), node_id="k::s", kernel="k", target="cpu", shape=one)
    assert made.samples_s == (0.1, 0.2, 0.3)
    assert (made.calls, made.seed, made.device) == (4, 11, "AMD EPYC")
    assert made.verdict.peers["torch-sdpa"].ratio == pytest.approx(2.0)


def test_a_row_of_an_untimed_evaluation_has_no_samples() -> None:
    one = shape()
    evaluation = Evaluation(one.id, "crashed", "SIGSEGV in the first call")
    made = result_row(evaluation, judge(evaluation, one, floor=0), node_id="k::s", kernel="k", target="cpu", shape=one)
    assert made.samples_s == ()
    assert made.verdict.kind == "crashed"


def test_rows_of_two_devices_are_kept_apart() -> None:
    rows = [row(shape(), device="a"), row(shape(), device="b"), row(shape(batch=2), device="a")]
    assert {key: len(group) for key, group in by_kernel(rows).items()} == {
        ("kernels/cpu/prefill.py", "a"): 2,
        ("kernels/cpu/prefill.py", "b"): 1,
    }


def test_the_baseline_is_the_first_arm() -> None:
    peer = {"fa3": beside(1.2, 1.1, 1.3)}
    rows = [row(shape(), peers=peer), row(shape(batch=2), peers=peer, baseline=beside(1, 0.9, 1.1))]
    assert arms(rows) == (BASELINE, "fa3")
    assert list(comparisons(rows[1])) == [BASELINE, "fa3"]


def test_the_geomean_weights_shapes_on_the_log_scale() -> None:
    rows = [
        row(shape(weight=3), peers={"p": beside(2.0, 1.9, 2.1)}),
        row(shape(batch=2, weight=1), peers={"p": beside(0.5, 0.45, 0.55)}),
    ]
    mean = geomeans(rows)["p"]
    assert mean.ratio == pytest.approx(2**0.75 * 0.5**0.25)
    half = math.sqrt((0.75 * math.log(2.1 / 1.9) / 2) ** 2 + (0.25 * math.log(0.55 / 0.45) / 2) ** 2)
    assert mean.ci95 == pytest.approx((mean.ratio * math.exp(-half), mean.ratio * math.exp(half)))
    assert mean.shapes == 2


def test_the_geomean_of_one_shape_is_that_shape() -> None:
    mean = geomeans([row(shape(weight=9), peers={"p": beside(1.2, 1.2 / 1.1, 1.2 * 1.1)})])["p"]
    assert (mean.ratio, *mean.ci95) == pytest.approx((1.2, 1.2 / 1.1, 1.2 * 1.1))


def test_the_baseline_has_a_geomean_too() -> None:
    assert geomeans([row(shape(), baseline=beside(1.04, 1.03, 1.05))])[BASELINE].ratio == pytest.approx(1.04)


def test_a_kernel_that_fails_on_one_shape_has_no_score() -> None:
    peer = {"p": beside(4.0, 3.9, 4.1)}
    failing = [row(shape(), peers=peer), row(shape(batch=2), "incorrect")]
    assert geomeans(failing) == {}
    sound = row(shape(), peers={"p": beside(1.5, 1.4, 1.6)}, kernel="kernels/cpu/sound.py")
    assert geomeans([*failing, sound])["p"].ratio == pytest.approx(1.5)


def test_a_peer_that_is_absent_on_a_shape_is_the_mean_of_the_others() -> None:
    rows = [row(shape(), peers={"p": beside(1.5, 1.4, 1.6)}), row(shape(batch=2))]
    assert geomeans(rows)["p"].shapes == 1


@settings(deadline=None)
@given(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=8), st.floats(0.001, 0.3))
def test_the_mean_is_known_better_than_its_worst_shape(ratios: list[float], half: float) -> None:
    peers = [beside(ratio, ratio * math.exp(-half), ratio * math.exp(half)) for ratio in ratios]
    mean = geomeans([row(shape(batch=i + 1), peers={"p": peer}) for i, peer in enumerate(peers)])["p"]
    assert mean.ci95[0] <= mean.ratio <= mean.ci95[1]
    assert math.log(mean.ci95[1] / mean.ci95[0]) / 2 == pytest.approx(half / math.sqrt(len(ratios)))


def test_the_geomean_agrees_with_the_bootstrap_of_the_raw_samples() -> None:
    random = np.random.default_rng(5)
    launches = {str(i): [list(random.normal(0.1 * i, 0.02, size=200))] for i in range(4)}
    exact = stats.geomean_interval(launches)
    peers = {name: stats.interval(values).exp() for name, values in launches.items()}
    rows = [row(shape(batch=i + 1), peers={"p": beside(*_bounds(x))}) for i, x in enumerate(peers.values())]
    mean = geomeans(rows)["p"]
    assert math.log(mean.ratio) == pytest.approx(exact.estimate)
    assert math.log(mean.ci95[1] / mean.ci95[0]) / 2 == pytest.approx(exact.half_width, rel=0.2)


def _bounds(interval: stats.Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high
