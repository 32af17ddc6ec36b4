"""`attention` as operators of torch, `avo::attention` and `avo::attention_lse`, for torch.compile and CUDA graphs.

Which kernel runs is chosen when the operator does, by the tensors that it gets. Results lie in memory as (batch,
seqlen_q, heads_q, head_dim), as models want them next.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from pytest_avo.kernels import dispatch, gradients
from pytest_avo.kernels.tensors import key_of
from pytest_avo.kernels.torch_answer import side_by_side, torch_answer

ARGUMENTS = "Tensor q, Tensor k, Tensor v, bool causal, float scale"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether the operators take such tensors; the rest is traced as torch's own attention."""
    return bool(
        q.dim() == k.dim() == v.dim() == 4
        and q.dtype in DTYPES
        and q.dtype == k.dtype == v.dtype
        and q.device == k.device == v.device
        and k.shape[:3] == v.shape[:3]
        and q.shape[-1] == k.shape[-1] == v.shape[-1]
        and q.shape[0] == k.shape[0]
        and q.shape[-1] > 0
    )


@torch.library.custom_op("avo::attention", mutates_args=(), schema=f"({ARGUMENTS}) -> Tensor")
def attention_alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Attention without gradients; as `pytest_avo.kernels.attention`."""
    with _without_autocast(q.device):
        key = key_of(q, k, v, causal)
        if key is None:
            return _as_models_do(torch_answer(q, k, v, causal=causal, scale=scale))
        return _as_models_do(dispatch.call(key, q, k, v, causal=causal, scale=scale))


@torch.library.custom_op("avo::attention_lse", mutates_args=(), schema=f"({ARGUMENTS}) -> (Tensor, Tensor)")
def attention_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its log-sum-exp (batch, heads_q, seqlen_q) in float32, from which gradients are computed."""
    with _without_autocast(q.device):
        key = key_of(q, k, v, causal)
        found = None if key is None else dispatch.call_with_lse(key, q, k, v, causal=causal, scale=scale)
        if found is None:
            q, k, v = map(side_by_side, (q, k, v))
            found = gradients.forward(q, k, v, causal=causal, scale=scale)
        return _as_models_do(found[0]), found[1].contiguous()


@attention_alone.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    return _like_result(q)


@attention_with_lse.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _like_result(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    *given, out, lse = ctx.saved_tensors
    q, k, v = map(side_by_side, given)
    found = gradients.backward(grad, q, k, v, out, lse, causal=ctx.causal, scale=ctx.scale)
    return (*found, None, None)


attention_with_lse.register_autograd(_differentiate, setup_context=_keep)


def _like_result(q: torch.Tensor) -> torch.Tensor:
    batch, heads, seqlen, head_dim = q.shape
    return q.new_empty((batch, seqlen, heads, head_dim)).transpose(1, 2)


def _as_models_do(out: torch.Tensor) -> torch.Tensor:
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What is traced has its types by then: autocast has either cast the operands or left them alone."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
