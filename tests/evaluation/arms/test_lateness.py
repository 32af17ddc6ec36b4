"""A device's answers after a kernel's slices."""

from __future__ import annotations

import pytest

from pytest_avo.evaluation.arms.lateness import OFTEN_LATE, Lateness


@pytest.mark.parametrize(
    ("responses_s", "waited_s"),
    [
        ((), 0.0),
        ((1e-4, 2e-5, 2e-5), 1e-4),
        ((0.0013, 2e-5, 2e-5), 0.0013),
        ((0.002, 0.001, 2e-5), 0.003),
        ((0.002, 0.002, 0.002), 0.006),
    ],
)
def test_what_was_left_running_is_waited_for(responses_s: tuple[float, ...], waited_s: float) -> None:
    assert Lateness().note(responses_s) == pytest.approx(waited_s)


def test_a_device_that_is_late_however_often_it_is_asked_is_kept_busy() -> None:
    lateness = Lateness()
    for _ in range(OFTEN_LATE - 1):
        lateness.note((0.01, 0.01, 0.01))
        lateness.note((0.01, 1e-5, 1e-5))
    assert not lateness.is_usual
    lateness.note((0.01, 0.01, 0.01))
    assert lateness.is_usual
