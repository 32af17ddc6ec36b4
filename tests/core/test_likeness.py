"""Normalised sources."""

from __future__ import annotations

import pytest

from pytest_avo.core.likeness import normalised

SOURCE = '''\
# avo: generation 7, parent 3f2a
"""What it does."""
import torch

BLOCK = 64  # a tunable


def attention(q, k, v, *, causal, scale):
    """Attend."""
    # scores
    return torch.softmax(q @ k.mT * scale, dim=-1) @ v
'''


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("generation 7", "generation 8"),
        SOURCE.replace("# avo: generation 7, parent 3f2a\n", ""),
        SOURCE.replace("  # a tunable", "").replace("    # scores\n", ""),
        SOURCE.replace("What it does.", "Something else.").replace("Attend.", "Attends."),
        SOURCE.replace("BLOCK = 64", "BLOCK  =  64").replace("\n\n\n", "\n"),
        SOURCE.replace("dim=-1", "dim = -1"),
    ],
)
def test_what_does_not_run_does_not_count(same: str) -> None:
    assert same != SOURCE
    assert normalised(same) == normalised(SOURCE)


def test_what_runs_counts() -> None:
    assert normalised(SOURCE.replace("64", "128")) != normalised(SOURCE)


def test_strings_keep_what_looks_like_a_comment() -> None:
    source = 'CPP = """\n#include <x>\n// note\n"""\n'
    assert "#include <x>" in normalised(source)


def test_docstring_stays_where_the_program_reads_it() -> None:
    source = '"""int main;"""\nbuild(__doc__)\n'
    assert "int main;" in normalised(source)


def test_function_with_only_a_docstring_stays_a_program() -> None:
    assert normalised('def f():\n    """Nothing."""\n') == "def f():\n    pass\n"


def test_source_that_does_not_parse_loses_comment_lines_only() -> None:
    assert normalised("def f(:\n\n    # why\n    x = 1  # kept\n") == "def f(:\n    x = 1  # kept\n"


def test_invalid_escape_is_no_warning() -> None:
    assert "x" in normalised("x = '\\d'\n")
