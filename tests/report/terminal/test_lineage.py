from __future__ import annotations

import dataclasses
import math

import pytest

from pytest_avo.core.stats import Interval
from pytest_avo.report import text
from pytest_avo.report.terminal.lineage import BLOCKS, MAX_ROWS, AttemptRow, Summary, lineage, sparkline, visible
from pytest_avo.report.terminal.terminal import WIDTH, Line

HYPOTHESIS = "BLOCK_Q 64 -> 128, GROUP_HEADS False -> True: predicted +4.1% from 3 earlier attempts"


def log_interval(ratio: float, low: float, high: float) -> Interval:
    return Interval(math.log(ratio), math.log(low), math.log(high))


def attempt(generation: int, status: str, *, score: float = 1.0, hypothesis: str = HYPOTHESIS) -> AttemptRow:
    promoted = status == "promoted"
    measured = promoted or status in {"same", "slower"}
    return AttemptRow(
        generation=generation,
        member=0,
        status=status,
        hypothesis=hypothesis,
        gain=log_interval(1.05, 1.04, 1.06) if measured else None,
        confirmed=log_interval(1.041, 1.032, 1.05) if promoted else None,
        score=score,
        seconds=12.3,
        evaluations=9,
    )


def summary(*, commits: int = 1, best: Interval | None = None, resume_hint: str = "") -> Summary:
    return Summary(
        kernel="kernels/cpu/quickstart.py",
        attempts=3,
        commits=commits,
        rejected={"incorrect": 1, "slower": 1} if commits else {},
        best_ratio=best,
        wall_s=161.0,
        build_s=20.0,
        check_s=5.5,
        time_s=74.5,
        evaluations=31,
        resume_hint=resume_hint,
    )


def long_run(attempts: int, *, every: int) -> list[AttemptRow]:
    return [attempt(0, "seed", hypothesis="")] + [
        attempt(i, "incorrect" if i % every else "promoted", score=1 + i // every / 25) for i in range(1, attempts)
    ]


def test_the_report_of_a_short_run() -> None:
    attempts = [
        attempt(0, "seed", hypothesis=""),
        attempt(1, "incorrect", hypothesis="EXP2 False -> True"),
        attempt(2, "promoted", score=1.041, hypothesis="BLOCK_Q 64 -> 128"),
        attempt(3, "slower", score=1.041, hypothesis="BLOCK_K 64 -> 32"),
    ]
    best = Interval(1.041, 1.032, 1.053)
    lines = lineage(attempts, summary(best=best, resume_hint="pytest --avo-evolve --avo-resume"))
    assert [line.text for line in lines] == [
        "gen  status      gain             confirmed  best  evals    time  hypothesis",
        "---  ---------  -----  --------------------  ----  -----  ------  ------------------",
        "  0  seed           -                     -  1.00      9  12.3 s  -",
        "  1  incorrect      -                     -  1.00      9  12.3 s  EXP2 False -> True",
        "  2  promoted   +5.0%  +4.1% [+3.2%, +5.0%]  1.04      9  12.3 s  BLOCK_Q 64 -> 128",
        "  3  slower     +5.0%                     -  1.04      9  12.3 s  BLOCK_K 64 -> 32",
        "",
        "best so far  1.00 ▁▁██ 1.04",
        "kernels/cpu/quickstart.py: 3 attempts · 1 commit · best 1.04 [1.03, 1.05] vs the seed",
        "not committed: 1 incorrect · 1 slower",
        "took: 2 min 41 s · 31 evaluations",
        "evaluator: 1 min 40 s (62%) · build 20.0 s · check 5.5 s · timing 1 min 14 s",
        "resume with: pytest --avo-evolve --avo-resume",
    ]
    assert [line.markup for line in lines[2:6]] == [{}, {"red": True}, {"green": True}, {}]


def test_a_run_without_a_commit_says_so() -> None:
    assert lineage([], summary(commits=0)) == [
        Line("kernels/cpu/quickstart.py: 3 attempts · 0 commits · no gain over the seed", {"bold": True}),
        Line("took: 2 min 41 s · 31 evaluations"),
        Line("evaluator: 1 min 40 s (62%) · build 20.0 s · check 5.5 s · timing 1 min 14 s"),
    ]


def test_a_lineage_without_a_comparison_with_the_seed_claims_no_gain() -> None:
    first = lineage([], summary(commits=1))[0].text
    assert first.endswith("1 commit · the best was not compared with the seed")


def test_members_of_a_population_are_told_apart() -> None:
    rows = [attempt(1, "same"), AttemptRow(1, 1, "same", "", None, None, 1.0, 2.0, 3)]
    assert [line.text.split()[0] for line in lineage(rows, summary(), width=200)[2:4]] == ["1.0", "1.1"]


def test_a_long_run_shows_its_commits_and_last_attempts() -> None:
    shown = visible(long_run(60, every=10))
    assert [row.generation for row in shown] == [0, 10, 20, 30, 40, 50, 55, 56, 57, 58, 59]
    lines = lineage(long_run(60, every=10), summary())
    assert "49 more rows in the lineage" in [line.text for line in lines]


def test_a_run_of_commits_only_stays_short() -> None:
    shown = visible(long_run(200, every=1))
    assert [row.generation for row in shown] == list(range(180, 200))
    assert len(visible(long_run(MAX_ROWS, every=3))) == MAX_ROWS


@pytest.mark.parametrize("hypothesis", [HYPOTHESIS * 5, "注意力" * 60, "two\nlines \x1b[31m" * 20])
def test_no_line_is_wider_than_the_width(hypothesis: str) -> None:
    rows = [attempt(i, "promoted", score=1 + i / 10, hypothesis=hypothesis) for i in range(500)]
    best = Interval(1.3, 1.2, 1.4)
    lines = lineage(rows, summary(best=best))
    assert max(text.columns(line.text) for line in lines) <= WIDTH
    assert all(line.text.isprintable() for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_hypothesis_is_wrapped_beside_the_table_or_below_its_row(width: int) -> None:
    said = "taller tiles, since each query tile reads all keys, and larger ones read them less often"
    drawn = [line.text for line in lineage([attempt(1, "promoted", hypothesis=said)], summary(), width=width)]
    rows = drawn[2 : drawn.index("")]
    assert max(map(len, drawn)) <= width
    assert " ".join(" ".join(rows).split()).endswith(said)
    assert len(rows) == {60: 3, 80: 3, 100: 3, 200: 1}[width]
    assert ("hypothesis" in drawn[0]) == (width > 80)


def test_the_evaluations_of_the_seed_are_told_apart() -> None:
    counted = dataclasses.replace(summary(), of_seed=5)
    assert "took: 2 min 41 s · 31 evaluations (5 of the seed)" in [line.text for line in lineage([], counted)]


def test_a_command_is_never_broken() -> None:
    command = "pytest --avo-evolve --avo-resume " + "k" * 120
    assert lineage([], summary(resume_hint=command))[-1].text == f"resume with: {command}"


def test_the_sparkline_spans_lowest_to_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 60) == BLOCKS
    assert sparkline([1.0, 1.0, 1.0], 60) == "▁▁▁"
    assert sparkline([1.0], 60) == "▁"


def test_a_sparkline_of_many_values_ends_with_the_last() -> None:
    line = sparkline([float(i) for i in range(500)], 60)
    assert len(line) == 60
    assert (line[0], line[-1]) == ("▁", "█")
