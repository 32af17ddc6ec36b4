"""What follows a kernel's slices, and what is made of it."""

from __future__ import annotations

from random import Random

import pytest

from pytest_avo.evaluation.judge.race.aftermath import LEAST_SLICES, Aftermath, tried, waiting

ORDER = ("kernel", "other", "other", "kernel")
"""Two rounds, as a race has them: the other arm right after the kernel, and right before it."""


def after(*, slowed: float, rounds: int = LEAST_SLICES, arm: str = "other", disturbed: int = 0) -> Aftermath:
    """What is known when slices after the kernel take `slowed` seconds and all others one, some 3 s for no reason."""
    found = Aftermath("kernel")
    for number in range(rounds):
        last = ""
        for name in ORDER:
            seconds = slowed if last == "kernel" and name != "kernel" else 1.0
            found.note("shape", arm if name == "other" else name, 3.0 if number < disturbed else seconds)
            last = name
    return found


def test_an_arm_that_always_takes_longer_after_the_kernel_is_suspected() -> None:
    found = after(slowed=1.5).suspicion()
    assert found is not None
    assert (found.shape, found.words) == ("shape", "other takes 50% longer right after it")


def test_cold_caches_are_no_fault() -> None:
    assert after(slowed=1.2).suspicion() is None


def test_a_machine_that_is_busy_for_a_while_is_no_fault() -> None:
    assert after(slowed=1.0, rounds=20, disturbed=6).suspicion() is None


def test_a_few_slices_say_nothing() -> None:
    assert after(slowed=9.0, rounds=LEAST_SLICES - 1).suspicion() is None


def trial(seed: int, *, slowed: float, noise: float) -> str:
    """What a trial makes of an arm that takes 1 s, or `slowed` after the kernel, times up to 1 + `noise`."""
    random = Random(seed)
    return tried(lambda after: (slowed if after else 1.0) * (1 + noise * random.random() ** 2), random)[0]


def test_a_trial_finds_work_that_goes_on() -> None:
    assert {trial(seed, slowed=1.6, noise=0.2) for seed in range(100)} == {"guilty"}
    assert {trial(seed, slowed=2.0, noise=0.5) for seed in range(100)} == {"guilty"}


def test_a_trial_acquits_on_a_quiet_machine() -> None:
    assert {trial(seed, slowed=1.1, noise=0.3) for seed in range(100)} == {"innocent"}


def test_a_trial_condemns_nobody_for_what_a_busy_machine_does() -> None:
    assert "guilty" not in {trial(seed, slowed=1.0, noise=4.0) for seed in range(2000)}


def test_a_trial_says_when_nothing_can_be_told() -> None:
    assert trial(0, slowed=1.0, noise=8.0) == "unclear"


@pytest.mark.parametrize(
    ("left_by", "found"),
    [({}, ""), ({"kernel": 1}, "kernel"), ({"baseline": 1}, "baseline"), ({"kernel": 2}, "kernel")],
)
def test_who_leaves_work_that_waits_is_told_from_who_comes_after(left_by: dict[str, int], found: str) -> None:
    """Work is left after every n-th slice of an arm; some was there before."""
    left, slices = True, 0

    def disturbs(arm: str) -> bool:
        nonlocal left, slices
        slices += 1
        was, left = left, False
        is_left = arm in left_by and slices % left_by[arm] == 0
        return is_left or (was and arm == "")

    assert waiting(("kernel", "baseline"), disturbs, nobody="") == found
