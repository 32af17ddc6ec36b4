"""The order in which kernels/sm90/mha.py walks its tiles, run as plain Python: the code is the kernel's own."""

from __future__ import annotations

import types
from itertools import product
from typing import Any

import pytest
import torch

from pytest_avo.evaluation.diagnosis.confined import load_attention
from pytest_avo.evaluation.kernel_process.absent_gpu import pretended_device
from tests import ROOT

KERNEL = ROOT / "kernels" / "sm90" / "mha.py"
GL = types.SimpleNamespace(
    minimum=min, maximum=max, cdiv=lambda a, b: -(-a // b), where=lambda condition, a, b: a if condition else b
)
HOST = ("Plan", "balanced", "causal_lengths", "folded", "last_end", "most_blocks")
BLOCK_M, BLOCK_N, CONSUMER_ROWS = 128, 64, 64
LONGEST_FIRST, TURNED, MIRRORED, FOLDED = range(4)
LENGTHS = [(1, 1), (700, 700), (129, 1000), (1000, 129)]


@pytest.fixture(scope="module")
def device() -> dict[str, Any]:
    """The device functions, their few library calls bound to Python's own."""
    kernel = load_attention(KERNEL)
    bound: dict[str, Any] = {"gl": GL, "TURNED": TURNED, "MIRRORED": MIRRORED, "FOLDED": FOLDED}
    for name in ("key_blocks", "locate", "mirrored"):
        bound[name] = types.FunctionType(kernel.__globals__[name].fn.__code__, bound)
    return bound | {name: kernel.__globals__[name] for name in HOST}


def planned(device: dict[str, Any], batch: int, heads: tuple[int, int], seqlens: tuple[int, int], head_dim: int) -> Any:
    """The plan of a causal call on an H200."""
    q, k = (
        torch.empty(batch, seqlen, count, head_dim, dtype=torch.bfloat16, device="meta").transpose(1, 2)
        for count, seqlen in zip(heads, seqlens, strict=True)
    )
    with pretended_device():
        return device["Plan"](q, k, k, torch.empty_like(q), True)


def visible(row: int, rows: int, seqlen_q: int, seqlen_kv: int, causal: bool) -> list[int]:
    """How many keys each of the rows sees."""
    shift = seqlen_kv - seqlen_q
    return [max(0, min(seqlen_kv, i + 1 + shift)) if causal else seqlen_kv for i in range(row, row + rows)]


@pytest.mark.parametrize(("causal", "order"), [(False, LONGEST_FIRST), (True, LONGEST_FIRST), (True, TURNED)])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("section", [1, 3, 4, 10])
@pytest.mark.parametrize(("seqlen_q", "seqlen_kv"), LENGTHS)
def test_tiles_cover_every_row_once_and_every_visible_key(
    device: dict[str, Any], seqlen_q: int, seqlen_kv: int, section: int, head_dim: int, causal: bool, order: int
) -> None:
    batch, heads_q = 2, 5
    row_tiles = -(-seqlen_q // BLOCK_M)
    sizes = (row_tiles, batch * heads_q, heads_q, section, seqlen_q, seqlen_kv)

    numbers = range(row_tiles * batch * heads_q)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, head_dim, causal, order) for tile in numbers]

    places = [(b, h, row) for b, h, row, _ in tiles]
    assert sorted(places) == list(product(range(batch), range(heads_q), range(0, seqlen_q, BLOCK_M)))
    for _, _, row, blocks in tiles:
        seen = visible(row, BLOCK_M, seqlen_q, seqlen_kv, causal)
        assert blocks == max(1, -(-max(seen) // BLOCK_N)), "no tile of keys that nobody sees, none left out"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seqlen_q", "seqlen_kv"), LENGTHS)
def test_a_consumer_leaves_out_and_leaves_unmasked_what_its_own_rows_allow(
    device: dict[str, Any], seqlen_q: int, seqlen_kv: int, causal: bool
) -> None:
    sizes = (0, 0, 0, 0, seqlen_q, seqlen_kv)
    for row in range(0, seqlen_q, CONSUMER_ROWS):
        own, whole = device["key_blocks"](row, sizes, CONSUMER_ROWS, BLOCK_N, causal)
        seen = visible(row, CONSUMER_ROWS, seqlen_q, seqlen_kv, causal)
        assert own == max(1, -(-max(seen) // BLOCK_N)), "it starts with the last block that one of its rows sees"
        assert whole == min(seen) // BLOCK_N, "a block without a mask is one that every row sees in full"
        of_tile, _ = device["key_blocks"](row // BLOCK_M * BLOCK_M, sizes, BLOCK_M, BLOCK_N, causal)
        assert own <= of_tile, "it cannot wait for a block that the producer does not load"


def test_a_causal_section_starts_with_its_longest_rows(device: dict[str, Any]) -> None:
    sizes = (8, 4, 4, 2, 1024, 1024)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 128, True, LONGEST_FIRST) for tile in range(32)]
    first_section = [blocks for _, _, _, blocks in tiles[:16]]
    assert first_section == sorted(first_section, reverse=True)
    assert {head for _, head, _, _ in tiles[:16]} == {0, 1}


def test_what_is_left_over_joins_the_last_causal_section(device: dict[str, Any]) -> None:
    sizes = (8, 7, 7, 3, 1024, 1024)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 128, True, LONGEST_FIRST) for tile in range(56)]
    last_section = tiles[24:]
    assert {head for _, head, _, _ in last_section} == {3, 4, 5, 6}
    lengths = [blocks for _, _, _, blocks in last_section]
    assert lengths == sorted(lengths, reverse=True)


def test_every_other_turned_section_starts_with_its_shortest_rows(device: dict[str, Any]) -> None:
    sizes = (8, 7, 7, 3, 1024, 1024)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 128, True, TURNED) for tile in range(56)]
    lengths = [blocks for _, _, _, blocks in tiles]
    assert lengths[:24] == sorted(lengths[:24], reverse=True)
    assert lengths[24:] == sorted(lengths[24:])


@pytest.mark.parametrize("order", [LONGEST_FIRST, TURNED])
@pytest.mark.parametrize(("heads", "section"), [(32, 8), (7, 3), (5, 5)])
def test_the_host_counts_what_the_busiest_program_walks(
    device: dict[str, Any], heads: int, section: int, order: int
) -> None:
    sizes = (16, heads, heads, section, 2048, 8192)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 128, True, order) for tile in range(16 * heads)]
    lengths = sorted({blocks for _, _, _, blocks in tiles}, reverse=True)
    for programs in (1, 13, 128, 132):
        walked = [sum(blocks for _, _, _, blocks in tiles[program::programs]) for program in range(programs)]
        assert device["most_blocks"](lengths, heads, section, programs, order == TURNED) == max(walked)


@pytest.mark.parametrize(("seqlen_q", "seqlen_kv"), [*LENGTHS, (4321, 4321), (500, 900)])
def test_the_host_knows_how_many_blocks_the_tiles_of_a_head_have(
    device: dict[str, Any], seqlen_q: int, seqlen_kv: int
) -> None:
    row_tiles = -(-seqlen_q // BLOCK_M)
    sizes = (row_tiles, 1, 1, 1, seqlen_q, seqlen_kv)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 256, True, LONGEST_FIRST) for tile in range(row_tiles)]
    assert device["causal_lengths"](seqlen_q, seqlen_kv, BLOCK_M, BLOCK_N) == [blocks + 1 for *_, blocks in tiles]


def test_the_host_counts_when_the_last_of_tiles_that_are_drawn_ends(device: dict[str, Any]) -> None:
    lengths = [5, 4, 3]
    assert device["last_end"](lengths, 2, 2, 2) == 5 + 4 + 3, "both heads at once"
    assert device["last_end"](lengths, 2, 1, 2) == 5 + 5 + 3, "one after the other"
    assert device["last_end"](lengths, 1, 1, 9) == 5


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("seqlen", [3000, 4096, 4321, 6000, 12000])
def test_a_balanced_section_ends_no_later_and_is_no_wider_than_it_has_to_be(
    device: dict[str, Any], seqlen: int, group: int
) -> None:
    heads, programs = 16, 132
    lengths = device["causal_lengths"](seqlen, seqlen, BLOCK_M, BLOCK_N)
    width = device["balanced"](lengths, heads, group, group, programs)
    ends = {w: device["last_end"](lengths, heads, w, programs) for w in range(group, heads + 1, group)}
    least = max(lengths[0], sum(lengths) * heads / programs)
    assert width in ends, "heads of one group stay together"
    assert ends[width] <= max(1.02 * least, 1.02 * min(ends.values()))
    assert all(end > 1.02 * least for narrower, end in ends.items() if narrower < width)


@pytest.mark.parametrize(("begin", "end"), [(0, 3), (2, 6), (3, 8), (0, 8)])
def test_a_folded_part_comes_the_shortest_first_and_every_row_once(
    device: dict[str, Any], begin: int, end: int
) -> None:
    sizes = (8, 6, 3, begin << 16 | end, 1000, 1000)
    tiles = [device["locate"](tile, sizes, BLOCK_M, BLOCK_N, 256, True, FOLDED) for tile in range(48)]
    assert sorted((b, h, row) for b, h, row, _ in tiles) == list(product(range(2), range(3), range(0, 1000, BLOCK_M)))
    lengths = device["causal_lengths"](1000, 1000, BLOCK_M, BLOCK_N)
    order = lengths[:begin] + lengths[begin:end][::-1] + lengths[end:]
    assert [blocks + 1 for *_, blocks in tiles] == [length for length in order for _ in range(6)]


@pytest.mark.parametrize(("seqlen", "heads"), [(3000, 16), (6144, 8), (7000, 8), (2048, 24)])
def test_folded_tiles_of_few_rounds_end_sooner(device: dict[str, Any], seqlen: int, heads: int) -> None:
    lengths = device["causal_lengths"](seqlen, seqlen, BLOCK_M, BLOCK_N)
    best = min(device["last_end"](lengths, heads, section, 132) for section in range(1, heads + 1))
    begin, end = divmod(device["folded"](lengths, heads, heads, 132), 1 << 16)
    order = lengths[:begin] + lengths[begin:end][::-1] + lengths[end:]
    assert 1.03 * device["last_end"](order, heads, heads, 132) <= best


@pytest.mark.parametrize(("seqlen", "heads"), [(4096, 64), (8192, 8), (1024, 48), (128, 200)])
def test_nothing_is_folded_that_ends_in_time_or_is_short(device: dict[str, Any], seqlen: int, heads: int) -> None:
    assert device["folded"](device["causal_lengths"](seqlen, seqlen, BLOCK_M, BLOCK_N), heads, heads, 132) is None


def test_few_heads_of_an_odd_length_end_as_soon_as_with_all_heads_at_once(device: dict[str, Any]) -> None:
    lengths = device["causal_lengths"](4321, 4321, BLOCK_M, BLOCK_N)
    width = device["balanced"](lengths, 8, 2, 2, 132)
    assert device["last_end"](lengths, 8, width, 132) == device["last_end"](lengths, 8, 8, 132)
    assert device["last_end"](lengths, 8, width, 132) < 0.75 * device["last_end"](lengths, 8, 2, 132)


def test_256_dimensions_work_on_more_heads_at_once_only_where_that_ends_sooner(device: dict[str, Any]) -> None:
    def section(batch: int, heads: tuple[int, int], seqlen: int, head_dim: int) -> int:
        return int(planned(device, batch, heads, (seqlen, seqlen), head_dim).sizes[4])

    assert section(1, (8, 4), 4321, 256) == 4
    assert section(8, (8, 8), 4096, 256) == 4
    assert section(2, (8, 8), 16384, 256) == 1
    assert section(1, (8, 4), 4321, 128) == 6, "what fits in the cache"


def test_few_queries_of_256_dimensions_are_drawn_where_that_ends_sooner(device: dict[str, Any]) -> None:
    assert planned(device, 1, (16, 8), (2048, 8192), 256).constants["DYNAMIC"]
    assert not planned(device, 1, (16, 8), (2048, 32768), 256).constants["DYNAMIC"]
    assert not planned(device, 1, (32, 8), (2048, 8192), 128).constants["DYNAMIC"]


@pytest.mark.parametrize("seqlen_q", [129, 256, 500, 512])
def test_mirrored_consumers_cover_every_row_once_and_none_sees_more_keys_than_the_last(
    device: dict[str, Any], seqlen_q: int
) -> None:
    row_tiles = -(-seqlen_q // BLOCK_M)
    sizes = (row_tiles, 2, 2, 2, seqlen_q, seqlen_q)
    tiles = [
        device["locate"](tile, sizes, CONSUMER_ROWS, BLOCK_N, 128, True, MIRRORED) for tile in range(2 * row_tiles)
    ]
    rows = [(head, row) for _, head, last, _ in tiles for row in (device["mirrored"](last, sizes), last)]
    assert sorted(rows) == list(product(range(2), range(0, row_tiles * BLOCK_M, CONSUMER_ROWS)))
    for _, _, row, blocks in tiles:
        own, _ = device["key_blocks"](device["mirrored"](row, sizes), sizes, CONSUMER_ROWS, BLOCK_N, True)
        assert own <= blocks
