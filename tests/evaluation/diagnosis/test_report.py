"""The compile report that an operator reads about a draft."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import parse_kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.report import compiled_records
from pytest_avo.report.terminal.compiled import as_text

SHAPE = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=16, seqlen_kv=16, head_dim=16, causal=True, dtype="bf16")


def report(source: str) -> str:
    kernel = parse_kernel(source, path=Path("draft.py"))
    return as_text("draft.py::one", compiled_records(kernel, [SHAPE], target="sm90", confined=False))


def test_what_goes_wrong_in_the_draft_is_the_report() -> None:
    assert report("raise RuntimeError('not today')") == "RuntimeError: not today"


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(EvaluatorError, match=r"draft.py: the compile report ended early"):
        report("import os\nos._exit(3)")
