"""Single tokens behind sequences of different lengths, by one call: the cache taken for one in blocks of a key each.

A call a sequence costs more than short sequences gain. A kernel for caches in blocks reads only what a table lists.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from pytest_avo.integrations.spans import Spans
from pytest_avo.kernels.dispatch import call_paged, taker
from pytest_avo.kernels.tensors import key_of


def attend_padded(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor | None:
    """Each sequence's one query over the keys of its span.

    q is (batch, heads_q, 1, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim), and the result is as q. None
    where no kernel takes it, or keys and values do not lie alike, one row behind the other.
    """
    key = key_of(q, k, v, False)
    if key is None or (kernel := taker(key)) is None or kernel.attention_paged is None:
        return None
    if k.stride() != v.stride() or not k.stride(2) or k.stride(0) % k.stride(2):
        return None
    table, lengths = _table(spans, k.stride(0) // k.stride(2))
    caches = [_as_blocks(x) for x in (k, v)]
    return call_paged(key, q, *caches, block_table=table, cache_seqlens=lengths, scale=scale)


@lru_cache(maxsize=1)  # the layers of a model share a mask
def _table(spans: Spans, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the rows that each sequence, `rows` behind the one before it, sees; how many these are."""
    first = [batch * rows + run.first_key for batch, run in enumerate(spans.each)]
    lengths = [run.last_key - run.first_key for run in spans.each]
    longest = torch.arange(max(lengths), dtype=torch.int32, device="cpu")
    table = torch.tensor(first, dtype=torch.int32, device="cpu")[:, None] + longest
    return table, torch.tensor(lengths, dtype=torch.int32, device="cpu")


def _as_blocks(x: torch.Tensor) -> torch.Tensor:
    """(rows, 1, heads_kv, head_dim): whatever lies rows behind the first, to the last row of the last sequence."""
    batch, heads, seqlen, head_dim = x.shape
    rows = (batch - 1) * (x.stride(0) // x.stride(2)) + seqlen
    return x.as_strided((rows, 1, heads, head_dim), (x.stride(2), x.stride(2), x.stride(1), 1))
