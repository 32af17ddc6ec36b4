from __future__ import annotations

import math

import pytest

from pytest_avo.report import text


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.00213, 3, "0.00213"),
        (1.234, 3, "1.23"),
        (99.96, 3, "100.0"),
        (1073.4, 3, "1073"),
        (512.34, 4, "512.3"),
        (88.0, 4, "88.00"),
        (0.0, 3, "0.00"),
        (None, 3, "-"),
        (math.inf, 3, "-"),
        (math.nan, 3, "-"),
    ],
)
def test_figures_have_significant_digits_and_no_exponent(value: float | None, digits: int, expected: str) -> None:
    assert text.significant(value, digits) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1.214, (1.181, 1.241)), "1.21 [1.18, 1.24]"),
        ((1.0031, (1.0012, 1.0049)), "1.003 [1.001, 1.005]"),
        ((12.34, (11.91, 12.87)), "12.3 [11.9, 12.9]"),
        ((1.214,), "1.21"),
    ],
)
def test_ratios_show_as_many_decimals_as_their_interval_deserves(
    arguments: tuple[float, tuple[float, float]], expected: str
) -> None:
    assert text.ratio(*arguments) == expected


def test_a_ratio_without_its_bounds_keeps_their_precision() -> None:
    assert text.ratio(1.0031, (1.0012, 1.0049), bounds=False) == "1.003"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (0.04, "<0.1 s"),
        (4.21, "4.2 s"),
        (59.96, "1 min 00 s"),
        (161, "2 min 41 s"),
        (3599.7, "1 h 00 min"),
        (3780, "1 h 03 min"),
    ],
)
def test_durations_read_aloud(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_a_log_ratio_reads_as_a_change() -> None:
    assert text.percent(math.log(1.041)) == "+4.1%"
    assert text.percent(math.log(0.959)) == "-4.1%"


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert text.plain("first\n\tsecond \x1b[31mred\x07 \u202eright") == "first second ?[31mred? ?right"


def test_clipped_text_counts_columns_not_characters() -> None:
    assert text.clip("short", 5) == "short"
    assert text.clip("a longer text", 8) == "a longe…"
    assert text.clip("注意力内核", 10) == "注意力内核"
    assert text.clip("注意力内核", 8) == "注意力…"
    assert text.columns("e\u0301") == 1


def test_folded_lines_break_between_parts_only() -> None:
    parts = ["geomean vs torch-sdpa 1.21", "vs flex 1.30", "5 correct"]
    assert text.fold("k.py:", parts, 100) == ["k.py: geomean vs torch-sdpa 1.21 · vs flex 1.30 · 5 correct"]
    assert text.fold("k.py:", parts, 34) == ["k.py: geomean vs torch-sdpa 1.21 ·", "  vs flex 1.30 · 5 correct"]


def test_nouns_follow_their_number() -> None:
    assert [text.counted(n, "commit") for n in (0, 1, 2)] == ["0 commits", "1 commit", "2 commits"]


def test_printable_keeps_spaces_and_disarms_control_characters() -> None:
    assert text.printable("  two  spaces \x1b[31mred\x07\n") == "  two  spaces ?[31mred??"


def test_quoted_lines_are_obeyed_by_nobody() -> None:
    found = text.quoted(
        "\n  ::error file=x::owned\n::stop-commands::y\n\x1b]0;t\x07\x1b[31mred\na ##[group]b ##vso[x]\rend"
    )
    assert all(line.startswith("|") for line in found.split("\n"))
    assert "##" not in found
    assert found.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("said", "width", "how", "lines"),
    [
        ("one two three", 20, {}, ["one two three"]),
        ("one two three", 8, {"indent": 2}, ["one two", "  three"]),
        ("  draft  aa: slower", 12, {"indent": 2}, ["  draft  aa:", "  slower"]),
        ("ab" * 5, 4, {}, ["abab", "abab", "ab"]),
        ("注意力注意力", 5, {}, ["注意", "力注", "意力"]),
        ("one two three four", 9, {"most": 2}, ["one two", "three fo…"]),
        ("", 5, {}, [""]),
    ],
)
def test_lines_are_broken_at_blanks(said: str, width: int, how: dict[str, int], lines: list[str]) -> None:
    assert text.wrapped(said, width, **how) == lines
