"""torch's own attention by this package's convention: what answers whatever no kernel takes, and judges nothing."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def torch_answer(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None
) -> torch.Tensor:
    """Attention by torch, differentiable; ValueError or torch's own error where the arguments fit no attention.

    q is (..., heads_q, seqlen_q, head_dim), k and v (..., heads_kv, seqlen_kv, head_dim). The causal mask is aligned
    bottom-right, where torch's own is aligned top-left; a row that sees no key is zero.
    """
    if q.is_nested or k.is_nested or v.is_nested:
        return _nested(q, k, v, causal=causal, scale=scale)
    _check(q, k, v)
    if any(x.layout is torch.strided and 1 in x.stride()[:-1] for x in (q, k, v)):
        q, k, v = map(side_by_side, (q, k, v))
    grouped = False
    if q.shape[-3] != k.shape[-3] or q.shape[-3] != v.shape[-3]:
        grouped = True  # a plain bool, where a graph of any length would have a comparison
    if scale is not None and scale <= 0:  # torch scales what it has masked with -inf already, which makes NaN of it
        q, scale = q * scale, 1.0
    queries, keys = q.shape[-2], k.shape[-2]
    if not causal or (queries == 1 and keys):
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    if queries == keys:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    if queries > keys:
        blind = q.new_zeros((*q.shape[:-2], queries - keys, v.shape[-1]))
        seeing = torch_answer(q[..., queries - keys :, :], k, v, causal=True, scale=scale)
        return torch.cat([blind, seeing], dim=-2)
    if q.is_cuda and not torch.compiler.is_compiling():
        from torch.nn.attention.bias import causal_lower_right  # brings torch's compiler along, which takes a second

        mask: torch.Tensor = causal_lower_right(queries, keys)  # by which torch's flash attention for GPUs takes it
    else:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def side_by_side(x: torch.Tensor) -> torch.Tensor:
    """x, copied where a row's elements do not lie side by side, or those of another dimension do too.

    torch's flash attention takes the first for granted when it is called by name. The second is so where rows overlap
    by all but an element, as `unfold` makes them: what is made like such a tensor has its dimensions in another order,
    which torch forgets when it writes a result.
    """
    *others, last = x.stride()
    return x if last == 1 and 1 not in others else x.contiguous()


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """ValueError for sizes that fit no attention: where there is nothing to compute, torch itself looks at none."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() < 3:
            raise ValueError(f"{name}: expected (batch, heads, seqlen, head_dim), got {tuple(x.shape)}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"expected one head_dim of q and k, got {shapes}")
    if k.shape[-3:-1] != v.shape[-3:-1]:
        raise ValueError(f"expected as many heads and keys in k as in v, got {shapes}")
    if q.shape[-3] and (not k.shape[-3] or q.shape[-3] % k.shape[-3]):
        raise ValueError(f"expected heads of q to be a multiple of those of k and v, got {shapes}")


def _nested(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None) -> torch.Tensor:
    """Nested tensors as torch takes them; where lengths of q and k differ, its causal mask would be the other one."""
    alike = q.layout is torch.jagged and k.layout is torch.jagged and q.shape[2] == k.shape[2]
    if causal and not alike:
        raise NotImplementedError(
            "attention: causal on nested tensors needs the jagged layout and the same lengths of q and k, because "
            "torch aligns their mask top-left"
        )
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
