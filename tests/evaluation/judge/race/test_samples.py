"""What a process says of its time, beside what was measured."""

from __future__ import annotations

import pytest
import torch

from pytest_avo.core.evaluation import BASELINE, KERNEL
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.judge.race.samples import Samples

NOTHING = torch.empty(0)


def fault(seconds: float, claimed_s: float, worked_s: float) -> str:
    """What is said of a kernel whose slices are all like that, beside one that accounts for all but half a ms."""
    samples = Samples("cpu")
    for arm, (took_s, said_s, cpu_s) in {
        KERNEL: (seconds, claimed_s, worked_s),
        BASELINE: (0.0105, 0.010, 0.0105),
    }.items():
        samples.begin_launch([arm])
        for _ in range(3):
            samples.slices[arm][-1].append(took_s)
            found = Slice(took_s, said_s, False, lambda _: NOTHING, lambda: NOTHING, lambda _: NOTHING, worked_s=cpu_s)
            samples.note_account(arm, found)
    return samples.clock_fault()


@pytest.mark.parametrize(
    ("seconds", "claimed_s", "worked_s"),
    [
        (0.0105, 0.010, 0.0105),
        (0.0105, 0.010, 0.001),  # other threads work
        (0.065, 0.002, 0.003),  # a helper of its own holds the interpreter
        (0.020, 0.019, 0.040),  # entered late by the system
    ],
)
def test_what_a_process_waited_for_is_no_false_clock(seconds: float, claimed_s: float, worked_s: float) -> None:
    assert not fault(seconds, claimed_s, worked_s)


@pytest.mark.parametrize(
    ("seconds", "claimed_s", "worked_s"),
    [(0.020, 0.0, 0.020), (0.020, 0.0002, 0.019), (0.020, 2.0, 0.020), (0.020, 0.030, 0.020)],
)
def test_a_clock_that_leaves_out_work_or_adds_some_is_false(seconds: float, claimed_s: float, worked_s: float) -> None:
    assert "its process accounts for" in fault(seconds, claimed_s, worked_s)
