"""Scripts beside a draft."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.evaluation.diagnosis import scratch
from pytest_avo.evaluation.diagnosis.scratch import run_scratch


def test_it_prints_beside_the_draft_confined(tmp_path: Path) -> None:
    script = f"import draft\nprint('rows', draft.ROWS)\nopen({str(tmp_path / 'x')!r}, 'w')\n"
    said, ended = run_scratch(script, "ROWS = 7\n", confined=True).rsplit("\n", 1)
    assert said.startswith("rows 7\nTraceback")
    assert "line 3" in said
    assert "scratch.py" not in said, "a traceback begins with the script's own lines"
    assert ended == "(exit status 1)"
    assert not (tmp_path / "x").exists()


def test_one_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "LIMIT_S", 0.2)
    assert run_scratch("while True:\n    pass\n", "", confined=False).endswith("(it was ended after 0.2 s)")
