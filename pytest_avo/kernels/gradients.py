"""Gradients of attention by torch's own flash backward, from the output and the log-sum-exp of the forward pass."""

from __future__ import annotations

import torch

aten = torch.ops.aten
FLASH_DTYPES = {"cpu": (torch.float32, torch.bfloat16, torch.float16), "cuda": (torch.bfloat16, torch.float16)}
MOST_DIMENSIONS = 256


def flash_backward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> bool:
    """Whether torch's flash attention computes the gradients of such a call; its causal mask is for equal lengths."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        return False
    (batch, heads_q, seqlen_q, head_dim), (batch_k, heads_kv, seqlen_kv, head_dim_k) = q.shape, k.shape
    return bool(
        q.dtype in FLASH_DTYPES.get(q.device.type, ())
        and q.dtype == k.dtype == v.dtype
        and q.device == k.device == v.device
        and (batch, head_dim) == (batch_k, head_dim_k)
        and heads_kv > 0
        and heads_q % heads_kv == 0
        and min(batch, heads_q, seqlen_q, seqlen_kv, head_dim) > 0
        and (not causal or seqlen_q == seqlen_kv)
        and (q.device.type == "cpu" or (head_dim % 8 == 0 and head_dim <= MOST_DIMENSIONS))
    )


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch's flash attention: the output, and the log-sum-exp (batch, heads_q, seqlen_q), natural, in float32."""
    k, v = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    else:
        out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v; those of shared key/value heads are summed over the query heads that read them."""
    heads_kv = k.shape[1]
    keys, values = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    if q.device.type == "cpu":
        grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, keys, values, out, lse, 0.0, causal, scale=scale
        )
    else:
        # No cumulative lengths, as all sequences are equally long, and no dropout whose random numbers to draw again.
        seed = torch.empty((), dtype=torch.uint64, device=q.device)
        lengths = (None, None, q.shape[2], keys.shape[2])
        grads = aten._scaled_dot_product_flash_attention_backward(
            grad, q, keys, values, out, lse, *lengths, 0.0, causal, seed, seed, scale=scale
        )
    return grads[0], _summed(grads[1], heads_kv), _summed(grads[2], heads_kv)


def _repeated(x: torch.Tensor, heads_q: int) -> torch.Tensor:
    return x if x.shape[1] == heads_q else x.repeat_interleave(heads_q // x.shape[1], dim=1)


def _summed(grad: torch.Tensor, heads_kv: int) -> torch.Tensor:
    if grad.shape[1] == heads_kv:
        return grad
    batch, heads, seqlen, head_dim = grad.shape
    return grad.reshape(batch, heads_kv, heads // heads_kv, seqlen, head_dim).sum(dim=2)
