"""`attention`: the way of one call, from tensors to the kernel that takes it or to torch."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._functorch import CInterpreter, peek_interpreter_stack

from pytest_avo.kernels import dispatch, gradients, operators
from pytest_avo.kernels.choice import Choice
from pytest_avo.kernels.tensors import key_of, obstacle
from pytest_avo.kernels.torch_answer import torch_answer

_SCALES = (type(None), float, int)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False, scale: float | None = None
) -> torch.Tensor:
    """softmax(q k^T * scale) v by the fastest kernel that was measured near such a shape, else by torch.

    q is (batch, heads_q, seqlen_q, head_dim), k and v are (batch, heads_kv, seqlen_kv, head_dim), of any strides; query
    head h reads key/value head h // (heads_q // heads_kv). `scale` is 1/sqrt(head_dim) by default. The causal mask is
    aligned bottom-right: the last query sees every key; a row that sees no key is zero. The result has q's dtype,
    device and shape, and any strides. What no kernel takes (`why` says what) torch answers, or raises its error;
    TypeError where an argument is no tensor or number.
    """
    if torch.compiler.is_compiling():
        return _traced(q, k, v, causal=causal, scale=scale)
    if type(scale) not in _SCALES or type(causal) is not bool:
        causal, scale = bool(causal), _number(scale)
    key = key_of(q, k, v, causal)
    if key is None:
        return _unusual(q, k, v, causal=causal, scale=scale)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _traced(q, k, v, causal=causal, scale=scale)
    return dispatch.call(key, q, k, v, causal=causal, scale=scale)


def why(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False) -> Choice:
    """What `attention` would do with these tensors here and now, and for what reason. Nothing is computed.

    The arguments are those of `attention`; what is no tensor, or fits no attention, is answered by torch's name and the
    obstacle. A kernel that would take the call is loaded, as at a first call.
    """
    q, k, v = (_plain(x) for x in (q, k, v))
    key = key_of(q, k, v, bool(causal))
    if key is None:
        return Choice(None, obstacle(q, k, v))
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return Choice(None, "gradients are needed")
    return dispatch.explained(key)


def _unusual(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None) -> torch.Tensor:
    """Parameters are plain tensors under another name; all else is torch's."""
    if any(type(x) is torch.nn.Parameter for x in (q, k, v)):
        return attention(_plain(q), _plain(k), _plain(v), causal=causal, scale=scale)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    return torch_answer(q, k, v, causal=causal, scale=scale)


def _number(scale: Any) -> float | None:
    """A number of NumPy or a tensor of one as Python's; TypeError for what is none."""
    try:
        return None if scale is None else float(scale)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"scale: expected a number, got {type(scale).__name__}") from None


def _plain(x: torch.Tensor) -> torch.Tensor:
    return x.view(x.shape) if type(x) is torch.nn.Parameter else x


def _traced(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None) -> torch.Tensor:
    """The call while torch.compile traces it, or with gradients: an operator of ours where one fits, else torch."""
    needs = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    fits = gradients.flash_backward(q, k, v, causal) if needs else operators.fits(q, k, v)
    # By torch.func, which does not know the operators' gradients. Traced, no interpreter is not None.
    transformed = isinstance(peek_interpreter_stack(), CInterpreter)
    if not fits or transformed or (scale is not None and scale <= 0) or torch.is_autocast_enabled(q.device.type):
        return torch_answer(q, k, v, causal=causal, scale=scale)
    factor = float(q.shape[3]) ** -0.5 if scale is None else scale
    if needs:
        out: torch.Tensor = operators.attention_with_lse(q, k, v, causal, factor)[0]
        return out
    alone: torch.Tensor = operators.attention_alone(q, k, v, causal, factor)
    return alone
