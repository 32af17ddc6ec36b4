"""Workflow commands: levels, places, escaping and GitHub's limit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.verdict import Total
from pytest_avo.report.files.annotations import commands
from pytest_avo.report.results import Unmeasured
from pytest_avo.report.rows import ResultRow
from tests.report.result_rows import KERNEL, row, shape

SOURCE = '"""A kernel."""\n\n\ndef attention(q, k, v, *, causal, scale):\n    return q\n'


@pytest.fixture
def rootdir(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / KERNEL
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE, encoding="utf-8")
    return tmp_path / "sub"


def lines(rootdir: Path, *rows: ResultRow, totals: tuple[Total, ...] = ()) -> list[str]:
    return commands(rows, totals, rootdir=rootdir, workspace=rootdir.parent)


def failed(of: ResultRow) -> ResultRow:
    return msgspec.structs.replace(of, failed=True)


def slower(reason: str, *, batch: int = 1) -> ResultRow:
    made = row(shape(batch=batch), "slower", reason=reason)
    return failed(msgspec.structs.replace(made, verdict=msgspec.structs.replace(made.verdict, regressed=True)))


def test_a_failure_is_an_error_at_the_kernels_definition(rootdir: Path) -> None:
    assert lines(rootdir, slower("8.0% slower than git:main, confirmed")) == [
        f"::error file=sub/{KERNEL},line=4,title={KERNEL}%3A%3A{shape().id}::8.0%25 slower than git:main, confirmed"
    ]


def test_a_wrong_kernel_says_how(rootdir: Path) -> None:
    (line,) = lines(rootdir, failed(row(shape(), "incorrect", reason="max error 3")))
    assert line.endswith("::incorrect: max error 3")


def test_what_is_unclear_is_a_warning_and_what_passes_or_was_skipped_is_nothing(rootdir: Path) -> None:
    rows = [row(shape(), "ambiguous", reason="who knows"), row(shape(batch=2), "same"), row(shape(batch=3), "slower")]
    rows.append(row(shape(batch=4), "unsupported", reason="needs sm90"))
    (line,) = lines(rootdir, *rows)
    assert line.startswith("::warning file=")
    assert line.endswith("::who knows")


def test_a_geomean_is_annotated_by_its_own_verdict(rootdir: Path) -> None:
    totals = (
        Total(KERNEL, "geomean", "slower", "2.0% slower", regressed=True),
        Total(KERNEL, "geomean-mha", "same", "0.1% slower"),
        Total(KERNEL, "geomean-gqa", "ambiguous", "0.9% slower"),
    )
    found = lines(rootdir, totals=totals)
    assert [line.partition(" ")[0] for line in found] == ["::error", "::warning"]


def test_foreign_text_starts_no_command_of_its_own(rootdir: Path) -> None:
    (line,) = lines(rootdir, failed(row(shape(), "crashed", reason="100%\n::set-output name=x::y\r, a:b")))
    assert "\n" not in line
    assert line.endswith("::crashed: 100%25 ::set-output name=x::y , a:b")


def test_github_shows_ten_of_a_kind(rootdir: Path) -> None:
    found = lines(rootdir, *(slower("slow", batch=batch) for batch in range(1, 14)))
    assert len(found) == 11
    assert found[-1] == "3 more errors in the job's summary"


def test_a_kernel_that_cannot_be_read_is_annotated_at_its_first_line(rootdir: Path) -> None:
    (rootdir / KERNEL).write_text("def attention(:\n", encoding="utf-8")
    (line,) = lines(rootdir, failed(row(shape(), "crashed", reason="syntax error")))
    assert ",line=1," in line


def test_what_could_not_be_measured_is_an_error(rootdir: Path) -> None:
    mistake = Unmeasured(KERNEL, "usage", "claims no shapes", is_machine=False)
    lost = Unmeasured(KERNEL, shape().id, "no worker is left", is_machine=True)
    found = commands([], [], [mistake, lost], rootdir=rootdir, workspace=rootdir.parent)
    assert [line.rpartition("::")[2] for line in found] == [
        "usage error: claims no shapes", "not evaluated: no worker is left",
    ]  # fmt: skip
    assert all(line.startswith("::error file=sub/") for line in found)
