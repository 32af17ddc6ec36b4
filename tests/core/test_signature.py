"""What can be seen of attention() without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.signature import flaw
from tests import ROOT


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", "has no attention: expected def attention(q, k, v, *, causal, scale)"),
        ("def attend(q, k, v, *, causal, scale): ...\n", "has no attention"),
        ("def attention(q, k): ...\n", "takes 2 positional arguments"),
        ("def attention(q, k, v): ...\n", "does not take causal and scale"),
        ("def attention(q, k, v, *, is_causal, scale): ...\n", "does not take causal"),
        ("def attention(q, k, v, mask, *, causal, scale): ...\n", "wants mask too"),
        ("def attention(q, k, v, *, causal, scale, block): ...\n", "wants block too"),
    ],
)
def test_a_call_that_cannot_go_well_is_known_beforehand(source: str, words: str) -> None:
    assert words in flaw(source)


@pytest.mark.parametrize(
    "source",
    [
        "def attention(q, k, v, *, causal, scale): ...\n",
        "def attention(q, k, v, causal, scale): ...\n",
        "def attention(query, key, value, *, causal, scale, block=64): ...\n",
        "def attention(q, k, v, causal=False, scale=None, mask=None): ...\n",
        "def attention(*tensors, **options): ...\n",
        "attention = make()\n",
        "from torch.nn import attention\n",
        "from somewhere import f as attention\n",
        "from somewhere import *\n",
        "globals()['attention'] = f\n",
        "if x:\n    def attention(q): ...\nelse:\n    def attention(q, k, v, *, causal, scale): ...\n",
        "@wraps\ndef attention(q): ...\n",
        "def attention(q): ...\nattention = wrapped(attention)\n",
        "for attention in (f, g): pass\n",
        "def attention(:\n",
    ],
)
def test_what_may_go_well_is_left_to_be_tried(source: str) -> None:
    assert flaw(source) == ""


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=lambda path: path.name)
def test_the_kernels_of_this_repository_have_no_flaw(path: Path) -> None:
    assert flaw(path.read_text()) == ""
