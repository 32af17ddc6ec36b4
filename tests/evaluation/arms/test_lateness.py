"""A device's answers after a kernel's slices."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pytest_avo.evaluation.arms.lateness import MOST_ANSWERS, OFTEN_LATE, Lateness


def waited_s(lateness: Lateness, answers_s: Iterable[float]) -> float:
    """Of a device that answers like that, and at once afterwards."""
    given = iter([*answers_s, 2e-5])
    return lateness.wait(lambda: next(given))


@pytest.mark.parametrize(
    "answers_s",
    [
        (),
        (0.00025, 5e-5),
        (0.0013, 0.0001),
        (0.0024, 0.0009, 0.0001),
        (0.0007, 0.0024, 0.0024, 0.0004),  # a turn of the judge's in between
    ],
)
def test_what_was_left_running_is_waited_for(answers_s: tuple[float, ...]) -> None:
    last = 0.0 if answers_s and answers_s[-1] <= 0.0002 else 2e-5
    assert waited_s(Lateness(), answers_s) == pytest.approx(sum(answers_s) + last)


def test_a_device_that_is_busy_however_often_it_is_asked_is_kept_so() -> None:
    lateness = Lateness()
    for _ in range(OFTEN_LATE - 1):
        assert waited_s(lateness, [0.002] * 50) == pytest.approx(0.002 * MOST_ANSWERS)
        waited_s(lateness, [0.002] * (MOST_ANSWERS - 1))
    assert not lateness.is_usual
    waited_s(lateness, [0.002] * 50)
    assert lateness.is_usual
