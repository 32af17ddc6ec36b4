"""Every format makes its file from what a run found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.report.catalogue import FORMATS, Format
from pytest_avo.report.results import Results
from tests.report.files.test_export import MACHINE
from tests.report.result_rows import row, shape


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
def test_a_format_makes_a_file_of_results(format_: Format, tmp_path: Path) -> None:
    found = Results([row(shape())], (), MACHINE, tmp_path)
    assert format_.text(found).endswith("\n")
