"""A kernel that offers all that a kernel can, in plain torch: each sequence on its own, in single precision."""

from __future__ import annotations

from typing import Any

import torch

AVO = {"target": "cpu", "shapes": ["smoke"], "lse": True, "varlen": True, "paged": True}


def attention(q: Any, k: Any, v: Any, *, causal: bool, scale: float, return_lse: bool = False) -> Any:
    """A plain call."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    scores = q.float() @ keys.transpose(-1, -2) * scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~seen, -torch.inf)
    out = (scores.softmax(-1).nan_to_num() @ values).to(q.dtype)
    return (out, scores.logsumexp(-1)) if return_lse else out


def attention_varlen(
    q: Any, k: Any, v: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    causal: bool, scale: float, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Packed sequences."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], q.shape[0])
    spans = [list(zip(x.tolist()[:-1], x.tolist()[1:], strict=True)) for x in (cu_seqlens_q, cu_seqlens_k)]
    for (start, end), (first, last) in zip(*spans, strict=True):
        assert end - start <= max_seqlen_q
        assert last - first <= max_seqlen_k
        each = (x[None].transpose(1, 2) for x in (q[start:end], k[first:last], v[first:last]))
        part, lse_part = attention(*each, causal=causal, scale=scale, return_lse=True)
        out[start:end], lse[:, start:end] = part[0].transpose(0, 1), lse_part[0]
    return (out, lse) if return_lse else out


def attention_paged(
    q: Any, k_cache: Any, v_cache: Any, *, block_table: Any, cache_seqlens: Any,
    causal: bool, scale: float, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Keys and values in blocks."""
    out, lse, size = torch.empty_like(q), torch.empty(q.shape[:3]), k_cache.shape[1]
    for n, length in enumerate(cache_seqlens.tolist()):
        blocks = block_table[n, : -(-length // size)].long()
        k, v = (x[blocks].flatten(0, 1)[None, :length].transpose(1, 2) for x in (k_cache, v_cache))
        out[n : n + 1], lse[n : n + 1] = attention(q[n : n + 1], k, v, causal=causal, scale=scale, return_lse=True)
    return (out, lse) if return_lse else out
