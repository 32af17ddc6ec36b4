"""The order in which kernels/sm90/mha.py walks its tiles, run as plain Python: the code is the kernel's own."""

from __future__ import annotations

import types
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.evaluation.compile import load_attention

KERNEL = Path(__file__).parents[2] / "kernels" / "sm90" / "mha.py"
GL = types.SimpleNamespace(minimum=min, maximum=max, cdiv=lambda a, b: -(-a // b))
BLOCK_M, BLOCK_N = 128, 64


@pytest.fixture(scope="module")
def locate() -> Any:
    """The device function, its few library calls bound to Python's own."""
    kernel = load_attention(KERNEL)
    return types.FunctionType(kernel.__globals__["locate"].fn.__code__, {"gl": GL})


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("section", [1, 3, 4, 100])
@pytest.mark.parametrize(("seqlen_q", "seqlen_kv"), [(1, 1), (700, 700), (129, 1000), (1000, 129)])
def test_tiles_cover_every_row_once_and_every_visible_key(
    locate: Any, seqlen_q: int, seqlen_kv: int, section: int, causal: bool
) -> None:
    batch, heads_q = 2, 5
    row_tiles = -(-seqlen_q // BLOCK_M)
    sizes = (row_tiles, batch * heads_q, heads_q, section, seqlen_q, seqlen_kv)

    tiles = [locate(tile, sizes, BLOCK_M, BLOCK_N, causal) for tile in range(row_tiles * batch * heads_q)]

    places = [(b, h, row) for b, h, row, _, _ in tiles]
    assert sorted(places) == list(product(range(batch), range(heads_q), range(0, seqlen_q, BLOCK_M)))
    for _, _, first_row, blocks, unmasked in tiles:
        rows = range(first_row, min(first_row + BLOCK_M, seqlen_q))
        seen = [max(0, min(seqlen_kv, i + 1 + seqlen_kv - seqlen_q)) if causal else seqlen_kv for i in rows]
        assert blocks == max(1, -(-max(seen) // BLOCK_N)), "no tile of keys that nobody sees, none left out"
        assert unmasked == min(seen) // BLOCK_N, "a block without a mask is one that every row sees in full"


def test_a_causal_section_starts_with_its_longest_rows(locate: Any) -> None:
    sizes = (8, 4, 4, 2, 1024, 1024)
    tiles = [locate(tile, sizes, BLOCK_M, BLOCK_N, True) for tile in range(32)]
    first_section = [blocks for _, _, _, blocks, _ in tiles[:16]]
    assert first_section == sorted(first_section, reverse=True)
    assert {head for _, head, _, _, _ in tiles[:16]} == {0, 1}
