"""What can be seen of attention() without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_avo.core.kernel import Claim, read_kernel
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


PLAIN = "def attention(q, k, v, *, causal, scale): ...\n"
PAGED = "def attention_paged(q, k_cache, v_cache, *, block_table, cache_seqlens, causal, scale"


@pytest.mark.parametrize(
    ("source", "claim", "words"),
    [
        (PLAIN, {"lse": True}, "attention does not take return_lse: expected def attention(q, k, v, *, causal, scale, "
         "return_lse=False), as AVO says (key lse)"),
        (PLAIN.replace("scale", "scale, return_lse"), {"lse": True}, "attention wants return_lse too"),
        (PLAIN, {"varlen": True}, "has no attention_varlen: expected def attention_varlen(q, k, v, *, cu_seqlens_q, "
         "cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale), as AVO says (key varlen)"),
        (PLAIN + "def attention_varlen(q, k, v, *, causal, scale): ...", {"varlen": True},
         "attention_varlen does not take cu_seqlens_k and cu_seqlens_q and max_seqlen_k and max_seqlen_q"),
        (PLAIN, {"paged": 16}, "has no attention_paged"),
        (PLAIN.replace("scale", "scale, return_lse=False") + PAGED + "): ...", {"paged": True, "lse": True},
         f"attention_paged does not take return_lse: expected {PAGED}, return_lse=False), as AVO says (key paged and"),
    ],
)  # fmt: skip
def test_what_a_claim_asks_for_has_to_be_there(source: str, claim: dict[str, Any], words: str) -> None:
    assert words in flaw(source, Claim("cpu", ("a",), **claim))
    assert flaw(source, Claim("cpu", ("a",))) == "" or "wants" in words


def test_a_kernel_that_does_more_than_it_claims_may_do_so() -> None:
    source = PLAIN.replace("scale", "scale, return_lse=False") + PAGED + ", return_lse=False): ..."
    for claim in (Claim("cpu", ("a",), lse=True, paged=True), Claim("cpu", ("a",), paged=16), Claim("cpu", ("a",))):
        assert flaw(source, claim) == ""


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=lambda path: path.name)
def test_the_kernels_of_this_repository_have_no_flaw(path: Path) -> None:
    assert flaw(path.read_text(), read_kernel(path).claim) == ""
