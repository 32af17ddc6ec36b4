"""The digest of what ncu 2025.3.1 wrote of a call of kernels/sm90/mha.py on an H200 (2026-11-28), thinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.evaluation.diagnosis.counters import digest
from pytest_avo.evaluation.diagnosis.counters.call import TracedLaunch, launches
from pytest_avo.evaluation.diagnosis.counters.measured import MeasuredLaunch, measured

HERE = Path(__file__).parent
RAW, SOURCE = ((HERE / name).read_text(encoding="utf-8") for name in ("raw.csv", "source.csv"))


@pytest.fixture
def call() -> list[MeasuredLaunch]:
    return measured(RAW, SOURCE)


def test_the_longest_launch_is_told_beside_another(call: list[MeasuredLaunch]) -> None:
    fill, attend = call
    assert digest.longest(call) is attend
    lines = digest.digest([attend], call, label="g0003").splitlines()
    rows = {line[: digest.WIDTH].strip(): line[digest.WIDTH :].split("  ")[0] for line in lines}
    assert rows["duration"] == "1,486.1 us"
    assert rows["tensor pipe"] == "84.0%"
    assert rows["L2"] == "56.7% (hits 92%)"
    assert rows["blocks a multiprocessor limited by"] == "registers, shared memory (1)"
    assert any(line.startswith("  barrier ") for line in lines)
    assert "?" not in rows.values()
    assert len(lines) <= 30
    assert "fill" in fill.name.lower()


def test_instructions_say_where_warps_waited_and_for_what(call: list[MeasuredLaunch]) -> None:
    first = call[1].instructions[0]
    assert first.share > 0.1
    assert first.place.startswith("0x")
    assert first.reasons[0][0] == "barrier"
    assert "selected" not in dict(first.reasons)


def test_other_launches_of_the_call_are_named(call: list[MeasuredLaunch]) -> None:
    last = digest.digest(call, [], label="").splitlines()[-1]
    assert last.startswith("the draft's other launches of the call: void at::vectorized_elementwise_kernel")


def test_a_metric_that_is_missing_is_a_question_mark() -> None:
    bare = MeasuredLaunch(name="f", grid="", block="", metrics={digest.DURATION: 1500.0})
    text = digest.digest([bare], [], label="")
    assert "duration                            1.5 us" in text
    assert "tensor pipe                         ?" in text


@pytest.mark.parametrize("raw", ["", "==ERROR== nothing\n", '"ID","Kernel Name"\n'])
def test_a_report_without_launches(raw: str) -> None:
    assert measured(raw, "") == []


def test_launches_of_a_trace_in_their_order() -> None:
    event = {
        "cat": "kernel", "name": "attend", "ts": 2, "dur": 12.5,
        "args": {
            "grid": [64, 1, 1], "block": [128, 1, 1], "registers per thread": 168, "shared memory": 2048,
        },
    }  # fmt: skip
    earlier = {**event, "name": "fill", "ts": 1}
    found = launches({"traceEvents": [event, {"cat": "cpu_op", "name": "x"}, earlier]})
    assert [each.name for each in found] == ["fill", "attend"]
    assert found[1] == TracedLaunch("attend", 12.5, (64, 1, 1), (128, 1, 1), 168, 2048)
    assert "12.5 us" in digest.traced(found, [], label="")


def test_occupancy_is_that_which_ncu_counts(call: list[MeasuredLaunch]) -> None:
    """ncu: 18.75% possible, one block a multiprocessor, by registers and shared memory."""
    attend = TracedLaunch("attend", 1486.4, (132, 1, 1), (384, 1, 1), 168, 197_000)
    assert digest.occupancy(attend) == (0.1875, ["registers", "shared memory"])
    assert call[1].get("sm__maximum_warps_per_active_cycle_pct") == 18.75
