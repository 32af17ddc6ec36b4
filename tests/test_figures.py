"""The table of GPU figures is what the files in results/ say."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests import ROOT

PAGE = "docs/reference/figures.md"


def check(root: Path) -> int:
    status: int = runpy.run_path(str(root / "benchmarks/figures.py"))["main"]()
    return status


def test_a_figure_that_no_run_produced_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["figures.py", "--check"])
    for name in ("results", "shapes", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / PAGE).read_text()
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text(text)
    assert check(tmp_path) == 0
    mean = re.search(r"(\d\.\d{3}) \[\d\.\d{3}, \d\.\d{3}\]", text.partition("<!-- table made")[2])
    assert mean is not None
    better = f"{float(mean[1]) + 0.1:.3f}"
    (tmp_path / PAGE).write_text(text.replace(mean[0], mean[0].replace(mean[1], better, 1)))
    assert check(tmp_path) == 1
