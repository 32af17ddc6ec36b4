"""Standing beside a fixed arm: over screening and confirmation, of all shapes, by what both had."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluation, Evaluations, Timing
from pytest_avo.evolution.fixed_arm import standing, unshown
from tests.core.gains import ONE, TWO

SHAPES = (ONE, TWO)
NOISE = (0.99, 1.0, 1.01)


def measured(kernel: float, baseline: float, fixed: Sequence[float], *, arm: str = FIXED) -> Evaluations:
    """Seconds of the arms, of the fixed one launch by launch."""

    def rounds(seconds: float, number: int) -> tuple[float, ...]:
        return tuple(seconds * NOISE[(number + i) % 3] for i in range(3))

    arms = {KERNEL: [kernel] * len(fixed), BASELINE: [baseline] * len(fixed), arm: list(fixed)}
    seconds = {name: tuple(rounds(x, i + len(name)) for i, x in enumerate(each)) for name, each in arms.items()}
    return {shape.id: Evaluation(shape.id, "ok", timing=Timing(seconds, calls=1, stopped="rounds")) for shape in SHAPES}


SCREENED = measured(3.0, 4.0, [1.0], arm="torch-sdpa")
NOW = [measured(1.6, 3.0, [1.0], arm="torch-sdpa"), measured(1.6, 3.0, [1.0, 1.0])]


@pytest.mark.parametrize("fixed", [(1.3, 1.0), (1.5, 1.0, 1.0)])
def test_a_launch_in_which_something_disturbed_the_fixed_arm_refuses_no_gain(fixed: Sequence[float]) -> None:
    """Seen: 1.85 times an incumbent, of whose three launches one had met a fixed arm that took 1.4 times as long."""
    confirmed = measured(3.0, 4.0, fixed)
    assert unshown(NOW, [SCREENED, confirmed], SHAPES) is None
    assert unshown(NOW[1:], [confirmed], SHAPES) is not None, "of the confirmations alone"


def test_what_takes_longer_than_it_did_as_a_candidate_is_told() -> None:
    now = [measured(3.0, 4.2, [1.0], arm="torch-sdpa"), measured(3.0, 4.2, [1.0, 1.0])]
    found = unshown(now, [SCREENED, measured(3.0, 4.0, [1.0, 1.0])], SHAPES)
    assert found is not None
    assert found.is_sure
    assert found.reason.endswith("1.00x what that was beside the same peer: the incumbent takes its time")


def test_measurements_of_all_shapes_are_taken_together() -> None:
    part = {ONE.id: SCREENED[ONE.id]}
    both = standing([part, measured(2.0, 4.0, [1.0, 1.0])], SHAPES)
    assert both is not None
    assert math.exp(both.estimate) == pytest.approx(0.5, rel=0.01)
    assert standing([part], SHAPES) is None
    assert unshown(NOW, [part], SHAPES) is None
    assert unshown(NOW, [], SHAPES) is None


def test_a_run_that_was_resumed_while_other_work_kept_the_machine_busy_is_not_suspected() -> None:
    """Threads that spin at barriers and threads that sleep there: the same kernel stood 1.7x better beside its peer."""
    now = [measured(3.0, 4.2, [1.0], arm="torch-sdpa"), measured(3.0, 4.2, [1.0, 1.0])]
    then = [SCREENED, measured(3.0, 4.0, [1.0, 1.0])]
    assert unshown(now, then, SHAPES) is not None
    assert unshown(now, [spinning(each) for each in then], SHAPES) is None
    assert unshown([spinning(each) for each in now], [spinning(each) for each in then], SHAPES) is not None


@pytest.mark.parametrize("spun", [(0, 2), (0, 3), (1, 2), (1, 3)])
def test_a_worker_where_threads_wait_otherwise_hides_no_incumbent_that_takes_its_time(spun: tuple[int, int]) -> None:
    """Of two workers that begin together one may find the other one at work."""
    now = [measured(3.0, 4.2, [1.0], arm="torch-sdpa"), measured(3.0, 4.2, [1.0, 1.0])]
    then = [measured(3.0, 4.0, [1.0], arm="torch-sdpa"), measured(3.0, 4.0, [1.0, 1.0])]
    assert unshown(now, then, SHAPES) is not None
    on_two = [spinning(each) if place in spun else each for place, each in enumerate([*now, *then])]
    assert unshown(on_two[:2], on_two[2:], SHAPES) is not None


def spinning(evaluations: Evaluations) -> Evaluations:
    found = {}
    for shape, each in evaluations.items():
        assert each.timing is not None
        found[shape] = replace(each, timing=replace(each.timing, spins=True))
    return found
