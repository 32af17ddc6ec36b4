"""The table of a self-test."""

from __future__ import annotations

import pytest

from pytest_avo.core.cheat import Expectation
from pytest_avo.report.terminal.selftest import SelftestRow, table


def row(got: str, *expect: Expectation, reason: str = "", kind: str = "replay", file: str = "file") -> SelftestRow:
    return SelftestRow(kind=kind, file=file, expect=frozenset(expect), got=got, reason=reason)


@pytest.mark.parametrize(
    ("got", "expect", "good", "shown"),
    [
        ("incorrect", ("incorrect", "cheating"), True, "incorrect"),
        ("crash", ("incorrect",), False, "crash"),
        ("ok", ("accept",), True, "accept"),
        ("ok", ("score_true", "cheating"), True, "score_true"),
        ("ok", ("contained",), True, "contained"),
        ("ok", ("incorrect",), False, "ok"),
        ("gained", ("accept",), True, "accept"),
        ("gained", ("score_true",), False, "gained"),
        ("gained", ("contained",), False, "gained"),
        ("escaped", ("contained", "crash"), False, "escaped"),
        ("timeout", ("contained",), True, "timeout"),
        ("incorrect", ("accept",), False, "incorrect"),
    ],
)
def test_what_counts_as_expected(got: str, expect: tuple[Expectation, ...], good: bool, shown: str) -> None:
    found = row(got, *expect)
    assert found.is_as_expected is good
    assert found.shown == shown


@pytest.mark.parametrize(
    ("reason", "mechanism"),
    [
        ("max error 1 > limit 0 (heads from 0, rows from 0) (a timed call)", "timed outputs are checked"),
        ("max error 1 > limit 0 (one element changed in k)", "a call repeated with one element changed"),
        ("rms error 1 > limit 0 (normal)", "error against float64"),
        ("output has NaN or infinite elements (normal)", "results poisoned beforehand, none but finite ones pass"),
        ("output shape is [1], expected [2]", "form of the result"),
        ("returned a Lazy, expected a plain torch.Tensor", "exact type of the result"),
        ("output shares memory with an input", "result apart from the inputs"),
        ("modified its inputs", "inputs compared bit for bit"),
        ("its process accounts for +9.0 ms less than the judge's clock", "the judge's clock"),
        ("malformed reply: the kernel interfered with the harness", "replies of a fixed schema"),
        ("check took longer than 3 s", "time limit, whole process group killed"),
        ("raised RuntimeError: can't allocate memory", "memory limit"),
        ("process killed by SIGSEGV in check", "a process of its own"),
        ("raised ValueError: no", "the kernel's own error"),
    ],
)
def test_a_reason_names_its_mechanism(reason: str, mechanism: str) -> None:
    assert row("incorrect", "incorrect", reason=reason).mechanism == mechanism


def test_a_right_kernel_was_measured_or_contained() -> None:
    assert (
        row("ok", "score_true", reason="0.9x of an honest one").mechanism == "timed from outside, 0.9x of an honest one"
    )
    assert row("ok", "contained").mechanism == "confinement: nothing was taken or left"


def test_the_table_has_a_row_each_and_a_sum_and_repeats_failures() -> None:
    rows = [
        row("ok", "accept", kind="honest", file="b"),
        row("ok", "incorrect", file="a", reason="0.5x of an honest one"),
        row("skipped", "incorrect", file="c", reason="is for a gpu"),
    ]
    lines = list(table(rows))
    assert [line.text.split()[:2] for line in lines[2:5]] == [["replay", "a"], ["replay", "c"], ["honest", "b"]]
    assert [line.markup for line in lines[2:5]] == [{"red": True}, {"yellow": True}, {"green": True}]
    assert [line.text for line in lines[5:]] == [
        "1 of 2 kernels as expected, 1 skipped",
        "a: ok: 0.5x of an honest one",
    ]
    assert list(table([])) == []
