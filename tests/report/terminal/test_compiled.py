"""The table of a compile report and what it says beside another version."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pytest_avo.evaluation.diagnosis.compile import LaunchReport
from pytest_avo.report.terminal.changes import changes
from pytest_avo.report.terminal.compiled import CompiledItem, failures, in_short, tables

LAUNCH = LaunchReport(
    shape=0, kernel="attend", code="aa", constants=(("BLOCK_M", "128"), ("CAUSAL", "True")), grid=(8, 1, 1),
    registers=168, spill_stores=0, spill_loads=0, shared_bytes=98304, num_warps=8, wgmma_count=12,
    wgmma_serialized=False, local_loads=0, local_stores=0, hot_local=0, failures=(),
)  # fmt: skip
OTHER = {"code": "bb", "constants": (("BLOCK_M", "64"), ("CAUSAL", "True"))}
IDS = ["b1-h16-q4096-k4096-d128-causal-bf16", "b8-h16-q4096-k4096-d128-causal-bf16"]


def launch(**changed: Any) -> LaunchReport:
    return msgspec.structs.replace(LAUNCH, **changed)


def lines(*items: CompiledItem, **how: Any) -> list[str]:
    return [line.text for line in tables(items, **how)]


def test_code_of_one_name_and_equal_figures_stands_in_rows_of_its_own() -> None:
    shown = lines(
        CompiledItem(f"k.py::{IDS[0]}", (LAUNCH, launch(**OTHER))),
        CompiledItem(f"k.py::{IDS[1]}", (launch(shape=1, grid=(64, 1, 1)),)),
    )
    assert shown[1] == "k.py: distinct launches 2"
    assert [line.split()[:3] for line in shown[4:6]] == [["1", "attend", "2"], ["2", "attend", "1"]]
    assert "1  on b1|8-h16-q4096-k4096-d128-causal-bf16 (2 shapes)" in shown
    assert "   BLOCK_M=128, CAUSAL=True" in shown
    assert f"2  on {IDS[0]}" in shown
    assert "   BLOCK_M=64, CAUSAL=True" in shown


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    many = launch(
        constants=tuple((f"CONSTANT_{i}", "x" * 90) for i in range(8)), kernel="a_rather_long_name_of_a_kernel"
    )
    items = [CompiledItem(f"k.py::{each}", (many,), before=(LAUNCH,), skipped="") for each in IDS]
    items.append(CompiledItem("cuda.py::one", skipped="needs nvcc, which is not on PATH, nor anywhere else " * 3))
    shown = lines(*items, width=width, ref="git:main")
    assert max(map(len, shown)) <= width
    assert ("warps" in shown[2]) == (width > 100)


def test_what_was_not_compiled_is_said_once_for_each_reason() -> None:
    items = [CompiledItem(f"cuda.py::{each}", skipped="needs nvcc, which is not on PATH") for each in IDS]
    assert lines(*items, ref="git:main") == [
        "",
        "cuda.py: not compiled, needs nvcc, which is not on PATH (2 items skipped)",
    ]


def test_failures_say_which_of_several_launches_has_them() -> None:
    spilled = launch(**OTHER, failures=("registers spilled: 8 bytes stored, 8 bytes loaded",))
    assert failures([LAUNCH, spilled]) == ["attend[BLOCK_M=64]: registers spilled: 8 bytes stored, 8 bytes loaded"]
    assert failures([LAUNCH, msgspec.structs.replace(spilled, tried=True)]) == []
    assert failures([spilled]) == ["attend: registers spilled: 8 bytes stored, 8 bytes loaded"]


def test_changes_beside_a_ref_are_said_once_with_their_shapes() -> None:
    now = launch(registers=255, spill_stores=8, code="cc", constants=(("BLOCK_M", "256"), ("CAUSAL", "True")))
    items = [CompiledItem(f"k.py::{each}", (now,), before=(LAUNCH,)) for each in IDS]
    items.append(CompiledItem("k.py::b1-h1-q1-k1-d64-full-bf16", (LAUNCH,), before=(LAUNCH,)))
    shown = lines(*items, ref="git:main", width=200)
    assert shown[shown.index("k.py beside git:main:") :] == [
        "k.py beside git:main:",
        "  attend: registers 168 -> 255, bytes spilled 0 -> 8, BLOCK_M 128 -> 256, "
        "on b1|8-h16-q4096-k4096-d128-causal-bf16 (2 shapes)",
        "  the same launches on 1 shape",
    ]


def test_changes_of_launches_that_came_went_or_only_differ_in_code() -> None:
    merge = launch(kernel="merge")
    assert changes((LAUNCH, merge), (launch(code="zz"), launch(**OTHER))) == [
        ("attend (1)", "other code, the same figures"),
        ("attend (2)", "was not launched"),
        ("merge", "not launched any more"),
    ]
    assert changes((LAUNCH,), (launch(grid=None),)) == [("attend", "grid 8x1x1 -> refused")]


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        (IDS[:1], IDS[0]),
        ([f"b{b}-h2-q64-k64-d64-{m}-bf16" for b in (8, 1, 2, 4) for m in ("full", "causal")],
         "b1..8-h2-q64-k64-d64-full|causal-bf16 (8 shapes)"),
        (["b1-h8kv2-q1-k8-d64-full-bf16", "b1-h8-q1-k8-d64-full-bf16"], "b1-h8kv2|h8-q1-k8-d64-full-bf16 (2 shapes)"),
        (["b1-h8-q1-k8-d64-full-bf16-s0.5", "b1-h8-q1-k8-d64-full-bf16"],
         "b1-h8-q1-k8-d64-full-bf16-s0.5, b1-h8-q1-k8-d64-full-bf16"),
    ],
)  # fmt: skip
def test_shapes_in_short(ids: list[str], short: str) -> None:
    assert in_short(ids) == short
