from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import VerdictKind
from pytest_avo.report.rows import ResultRow
from pytest_avo.report.terminal.terminal import (
    LEGEND,
    WIDTH,
    Line,
    headline,
    notes,
    reason_line,
    results,
    verdict_counts,
)
from pytest_avo.report.text import columns
from tests.report.result_rows import beside, row, shape

PEERS = {"torch-sdpa": beside(1.214, 1.181, 1.241)}
REASON = "max error 3.2e-2 > limit 1.1e-3 (randn)"
ABSENT = ("flex absent: no module named triton",)
GPU_PEERS = ("cudnn", "fa2", "fa3", "fa4", "flex")


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def kernel_rows() -> list[ResultRow]:
    return [
        row(shape(), peers=PEERS, notes=ABSENT),
        row(shape(batch=2), "incorrect", reason=REASON, notes=ABSENT),
        row(shape(queries=1), peers=PEERS, median_us=31.25, notes=ABSENT),
    ]


def paper_rows(peers: tuple[str, ...], count: int = 4) -> list[ResultRow]:
    grid = [
        Shape(
            batch=2**i,
            heads_q=32,
            heads_kv=8,
            seqlen_q=32768 >> i,
            seqlen_kv=32768 >> i,
            head_dim=128,
            causal=bool(i % 2),
            dtype="bf16",
        )
        for i in range(count)
    ]
    beside_all = {name: beside(1.214, 1.181, 1.241) for name in peers}
    return [row(x, "faster", peers=beside_all, baseline=beside(1.031, 1.022, 1.043), median_us=12345.6) for x in grid]


def test_the_report_of_one_kernel() -> None:
    assert texts(results(kernel_rows())) == [
        "kernels/cpu/prefill.py: 2 correct, 1 incorrect",
        "shape                           median us     throughput      vs torch-sdpa  verdict",
        "------------------------------  ---------  -------------  -----------------  ---------",
        "b1-h8-q512-k512-d64-causal-f32      400.0  0.671 TFLOP/s  1.21 [1.18, 1.24]  correct",
        "b2-h8-q512-k512-d64-causal-f32          -              -                  -  incorrect",
        "b1-h8-q1-k512-d64-causal-f32        31.25      67.2 GB/s  1.21 [1.18, 1.24]  correct",
        "incorrect  b2-h8-q512-k512-d64-causal-f32: max error 3.2e-2 > limit 1.1e-3 (randn)",
        "note: flex absent: no module named triton",
        "",
        LEGEND,
    ]


def test_a_failure_is_red_in_the_table_and_below_it() -> None:
    lines = results(kernel_rows())
    assert lines[0].markup == {"bold": True, "red": True}
    assert [line.markup for line in lines[3:7]] == [{}, {"red": True}, {}, {"red": True}]


def test_quiet_leaves_headlines_and_bad_rows() -> None:
    slower = row(shape(), "slower", reason="4.1% slower than the incumbent", kernel="kernels/cpu/decode.py")
    assert texts(results([*kernel_rows(), slower], verbosity=-1)) == [
        "kernels/cpu/prefill.py: 2 correct, 1 incorrect",
        f"incorrect  b2-h8-q512-k512-d64-causal-f32: {REASON}",
        "kernels/cpu/decode.py: 1 slower",
        "slower  b1-h8-q512-k512-d64-causal-f32: 4.1% slower than the incumbent",
    ]


def test_verbose_adds_rounds_and_seed() -> None:
    lines = texts(results(kernel_rows(), verbosity=1))
    assert lines[1].endswith("verdict    rounds  seed")
    assert lines[3].endswith("correct         3     7")
    assert lines[4].endswith("incorrect       -     7")


def test_the_headline_has_the_geomean_and_the_counts() -> None:
    rows = [row(shape(batch=i), peers={"torch-sdpa": beside(1.21, 1.21 / 1.05, 1.21 * 1.05)}) for i in range(1, 5)]
    assert headline("kernels/cpu/prefill.py", rows) == [
        Line(
            "kernels/cpu/prefill.py: geomean vs torch-sdpa 1.21 [1.18, 1.24] · 4 correct", {"bold": True, "green": True}
        )
    ]


def test_the_headline_says_when_a_peer_ran_on_some_shapes_only() -> None:
    (line,) = headline("k.py", [row(shape(), peers=PEERS), row(shape(batch=2))])
    assert line.text == "k.py: geomean vs torch-sdpa 1.21 [1.18, 1.24] (on 1 of 2 shapes) · 2 correct"


def test_the_headline_of_a_slower_kernel_is_a_warning() -> None:
    (line,) = headline("k.py", [row(shape(), "slower"), row(shape(batch=2), "faster")])
    assert line == Line("k.py: 1 faster, 1 slower", {"bold": True, "yellow": True})


def test_faster_and_slower_rows_have_their_colours() -> None:
    kinds: tuple[VerdictKind, ...] = ("faster", "same", "slower", "ambiguous")
    rows = [row(shape(batch=i + 1), kind) for i, kind in enumerate(kinds)]
    assert [line.markup for line in results(rows)[3:7]] == [{"green": True}, {}] + [{"yellow": True}] * 2


def test_devices_are_named_when_there_are_several() -> None:
    lines = texts(results([row(shape(), device="NVIDIA H200"), row(shape(), device="cpu")], verbosity=-1))
    assert lines == ["kernels/cpu/prefill.py on NVIDIA H200: 1 correct", "kernels/cpu/prefill.py on cpu: 1 correct"]


def test_a_file_that_met_no_device_makes_no_second_one_of_it() -> None:
    lines = texts(results([row(shape()), row(shape(), "crashed", device="", kernel="b.py")], verbosity=-1))
    assert [lines[0], lines[1]] == ["kernels/cpu/prefill.py: 1 correct", "b.py: 1 crashed"]


def test_untimed_results_need_no_legend() -> None:
    assert texts(results([row(shape(), "timeout", reason="build took more than 120 s")])) == [
        "kernels/cpu/prefill.py: 1 timeout",
        "shape                           verdict",
        "------------------------------  -------",
        "b1-h8-q512-k512-d64-causal-f32  timeout",
        "timeout  b1-h8-q512-k512-d64-causal-f32: build took more than 120 s",
        "",
    ]


def test_no_rows_no_lines() -> None:
    assert results([]) == []


def test_a_wide_table_drops_its_intervals_first() -> None:
    lines = texts(results(paper_rows(("torch-sdpa",))))
    start = next(i for i, line in enumerate(lines) if line.startswith("shape"))
    assert lines[start].split() == ["shape", "median", "ms", "TFLOP/s", "baseline", "torch-sdpa", "verdict"]
    assert lines[start + 2].split()[0] == "b1-h32kv8-q32768-k32768-d128-full-bf16"


def test_a_wider_table_abbreviates_its_shapes_too() -> None:
    lines = texts(results(paper_rows(GPU_PEERS)))
    header = next(line for line in lines if line.startswith("shape"))
    assert header.split() == ["shape", "median", "ms", "TFLOP/s", "baseline", *GPU_PEERS, "verdict"]
    assert any(line.startswith("b1-q32768-k32768-full ") for line in lines)
    assert "every shape: h32kv8-d128-bf16" in lines


def test_peers_that_do_not_fit_are_named() -> None:
    peers = tuple(f"peer-number-{i}" for i in range(9))
    lines = texts(results(paper_rows(peers)))
    header = next(line for line in lines if line.startswith("shape"))
    start = next(i for i, line in enumerate(lines) if line.startswith("too wide to show: "))
    assert header.split()[4:-1] == ["baseline", *peers[:2]]
    folded = " ".join(line.strip() for line in lines[start : start + 2])
    assert folded == "too wide to show: " + " · ".join(peers[2:])


@pytest.mark.parametrize("verbosity", [-1, 0, 1])
@pytest.mark.parametrize("peers", [(), ("torch-sdpa",), GPU_PEERS, tuple(f"peer-number-{i}" for i in range(9))])
def test_no_line_is_wider_than_the_width(peers: tuple[str, ...], verbosity: int) -> None:
    bad = row(shape(batch=7), "crashed", reason="Traceback " * 40, notes=("a note " * 40,))
    elsewhere = row(shape(), kernel="kernels/" + "deeply/" * 20 + "nested.py", seed=2**63, peers={})
    lines = results([*paper_rows(peers), bad, elsewhere], verbosity=verbosity)
    assert max(len(line.text) for line in lines) <= WIDTH


@settings(deadline=None)
@given(st.text())
def test_a_reason_stays_on_its_line(reason: str) -> None:
    line = reason_line(row(shape(), "crashed", reason=reason))
    assert line.text.isprintable()
    assert line.text.startswith(f"crashed  {shape().id}: ")
    assert columns(line.text) <= WIDTH


def test_a_missing_reason_is_admitted() -> None:
    assert reason_line(row(shape(), "crashed")).text == f"crashed  {shape().id}: no reason given"


def test_notes_say_for_how_many_shapes_they_hold() -> None:
    rows = [row(shape(), notes=("a", "b", "a")), row(shape(batch=2), notes=("a",))]
    assert notes(rows) == ["a", "b (1 of 2 shapes)"]


def test_verdicts_are_counted_in_their_declared_order() -> None:
    kinds: tuple[VerdictKind, ...] = ("crashed", "correct", "faster", "correct")
    rows = [row(shape(), kind) for kind in kinds]
    assert verdict_counts(rows) == "1 faster, 2 correct, 1 crashed"
