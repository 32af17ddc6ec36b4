"""What a choice sees of a call's tensors: a key to look it up by, the shape it stands for, and what forbids a kernel.

`key_of` is on the way of every call and has about four microseconds; `obstacle` says the same in words.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import msgspec
import torch
from torch.autograd import forward_ad

from pytest_avo.core.fingerprint import cpu_name
from pytest_avo.core.shape import Shape

MOST_ELEMENTS = 2**31
"""Kernels may count elements in 32 bits: what reaches further in memory goes to torch."""
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}

_tensor = torch.Tensor
_transforms = torch._C._functorch.peek_interpreter_stack
_modes = torch._C._len_torch_dispatch_stack
_autocast = torch._C._is_any_autocast_enabled
_tracing = torch._C._get_tracing_state


class Key(NamedTuple):
    """What a choice depends on. Batch and lengths count by their number of bits: a growing cache meets few new keys."""

    batch_bits: int
    seqlen_q_bits: int
    seqlen_kv_bits: int
    heads_q: int
    heads_kv: int
    head_dim: int
    causal: bool
    dtype: torch.dtype
    device: torch.device


def key_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> Key | None:
    """The key of a call; None where a kernel that reads raw memory could go wrong, or nothing is there to compute."""
    if type(q) is not _tensor or type(k) is not _tensor or type(v) is not _tensor or _tracing() is not None:
        return None
    try:
        batch, heads_q, seqlen_q, head_dim = q.shape
        shape = k.shape
        batch_k, heads_kv, seqlen_kv, head_dim_k = shape
        q_b, q_h, q_s, _ = q_steps = q.stride()
        k_b, k_h, k_s, _ = k_steps = k.stride()
        v_b, v_h, v_s, _ = v_steps = v.stride()
        # Where rows overlap by all but an element, a copy or an output made like the tensor has another order.
        last = q_steps.index(1) == k_steps.index(1) == v_steps.index(1) == 3
    except (ValueError, RuntimeError):  # of another rank, sparse, nested, or no step is 1
        return None
    # Of numbers that are not negative, all lie below a power of two just where their bits together do.
    reach = batch * (q_b | k_b | v_b) | heads_q * q_h | heads_kv * (k_h | v_h) | seqlen_q * q_s
    dtype, device = q.dtype, q.device
    if (
        v.shape != shape
        or batch_k != batch
        or head_dim_k != head_dim
        or k.dtype is not dtype
        or v.dtype is not dtype
        or k.device != device
        or v.device != device
        or not last
        or (reach | seqlen_kv * (k_s | v_s)) >= MOST_ELEMENTS
        or q.is_neg()
        or k.is_neg()
        or v.is_neg()
        or _transforms() is not None
        or _modes()
        or _autocast()
        or forward_ad._current_level >= 0
    ):
        return None
    bits = batch.bit_length(), seqlen_q.bit_length(), seqlen_kv.bit_length()
    return tuple.__new__(Key, (*bits, heads_q, heads_kv, head_dim, causal, dtype, device))  # half the time of Key(...)


def obstacle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str:
    """Why a call has no key, or "" where it has one."""
    tensors = (q, k, v)
    if not all(type(x) is torch.Tensor for x in tensors):
        return "not all of q, k and v are plain tensors"
    if _tracing() is not None:
        return "torch.jit traces, and would keep this one call's choice"
    if any(x.is_nested or x.layout is not torch.strided for x in tensors):
        return "not all of q, k and v are dense"
    if any(x.dim() != 4 for x in tensors):
        return "q, k and v are not (batch, heads, seqlen, head_dim)"
    if k.shape != v.shape or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        return "k and v do not have one shape, or not q's batch and head_dim"
    if len({x.dtype for x in tensors}) > 1 or len({x.device for x in tensors}) > 1:
        return "q, k and v do not share a dtype and a device"
    if any(x.stride(3) != 1 for x in tensors):
        return "the last dimension is not contiguous"
    if any(1 in x.stride()[:3] for x in tensors):
        return "the last dimension is not the only one whose elements lie side by side"
    if any(size * step >= MOST_ELEMENTS for x in tensors for size, step in zip(x.shape, x.stride(), strict=True)):
        return f"the elements of a tensor reach over {MOST_ELEMENTS} or more"
    if any(x.is_neg() for x in tensors):
        return "a tensor is a view that negates"
    if _transforms() is not None or _modes() or forward_ad._current_level >= 0:
        return "a transform of torch.func, forward-mode differentiation or a dispatch mode is active"
    return "autocast is active, and torch casts by its rules" if _autocast() else ""


def shape_of(key: Key) -> Shape | None:
    """The shape that stands for a key, of the smallest sizes with as many bits; None where no kernel claims such."""
    sizes = {
        "batch": _least(key.batch_bits),
        "heads_q": key.heads_q,
        "heads_kv": key.heads_kv,
        "seqlen_q": _least(key.seqlen_q_bits),
        "seqlen_kv": _least(key.seqlen_kv_bits),
        "head_dim": key.head_dim,
    }
    if not all(sizes.values()):
        return None
    try:
        return msgspec.convert({**sizes, "causal": bool(key.causal), "dtype": DTYPES.get(key.dtype)}, Shape)
    except msgspec.ValidationError:
        return None


def _least(bits: int) -> int:
    return 1 << bits >> 1


@functools.cache
def place(device: torch.device) -> tuple[str, str]:
    """Target and name of a device, as claims and results have them."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm{major}{minor}", torch.cuda.get_device_name(device)
    return device.type, cpu_name() if device.type == "cpu" else device.type
