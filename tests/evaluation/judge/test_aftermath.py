"""What follows a kernel's slices, and what is made of it."""

from __future__ import annotations

from pytest_avo.evaluation.judge.aftermath import LEAST_SLICES, Aftermath

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


def test_an_arm_that_always_takes_longer_after_the_kernel_is_found() -> None:
    assert after(slowed=1.5).found() == ("shape", "other takes 50% longer right after it")


def test_cold_caches_are_no_fault() -> None:
    assert after(slowed=1.2).found() is None


def test_a_machine_that_is_busy_for_a_while_is_no_fault() -> None:
    assert after(slowed=1.0, rounds=20, disturbed=6).found() is None


def test_a_few_slices_say_nothing() -> None:
    assert after(slowed=9.0, rounds=LEAST_SLICES - 1).found() is None
