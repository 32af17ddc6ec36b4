"""One call inside a kernel's process: its arguments, where its result belongs, and what is said of the result.

A call names a function of the kernel, q, k and v by where they lie, tables of integers likewise, and numbers. Where it
has a place for a log-sum-exp, one is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from pytest_avo.evaluation.kernel_process.wire import MAX_FORMS

BITS = {2: torch.int16, 4: torch.int32}
"""Integer dtypes by size in bytes, by which NumPy copies what it has no dtype for (bfloat16)."""
GRAIN = 32768
"""Elements up to which torch copies with one thread itself, and sooner than NumPy (at::internal::GRAIN_SIZE)."""


def tensors(given: torch.Tensor, call: dict[str, Any]) -> list[torch.Tensor]:
    """q, k and v of a call, as views of the memory for arguments."""
    dtype = TORCH_DTYPES[call["dtype"]]
    found = []
    for where in (call[name] for name in "qkv"):
        store = given[where["offset"] : where["offset"] + where["elements"] * dtype.itemsize].view(dtype)
        found.append(store.as_strided(where["shape"], where["stride"]))
    return found


def function(functions: Mapping[str, Any], call: dict[str, Any]) -> Any:
    """What a call is made to."""
    if call["function"] not in functions:
        raise AttributeError(f"the kernel has no {call['function']}")
    return functions[call["function"]]


def options(given: torch.Tensor, call: dict[str, Any]) -> dict[str, Any]:
    """All that a call passes by name."""
    found = {"causal": call["causal"], "scale": call["scale"], **call["numbers"]}
    for name, where in call["tables"].items():
        store = given[where["offset"] : where["offset"] + 4 * math.prod(where["shape"])].view(torch.int32)
        found[name] = store.view(where["shape"])
    return found | ({"return_lse": True} if "lse" in call else {})


def result_place(result: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    """Where the result of a call is expected, over memory in the models' order.

    That is (batch, heads, seqlen, head_dim) of (batch, seqlen, heads, head_dim), or (tokens, heads, head_dim) as it is.
    """
    dtype, shape = TORCH_DTYPES[call["dtype"]], call["q"]["shape"]
    memory = result[call["out"] : call["out"] + math.prod(shape) * dtype.itemsize].view(dtype)
    if len(shape) == 3:
        return memory.view(shape)
    batch, heads, seqlen, head_dim = shape
    return memory.view(batch, seqlen, heads, head_dim).transpose(1, 2)


def lse_place(result: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    """Where the log-sum-exp of a call is expected, float32: (batch, heads, seqlen), or (heads, tokens)."""
    *rest, _ = call["q"]["shape"]
    shape = rest if len(rest) == 3 else rest[::-1]
    return result[call["lse"] : call["lse"] + 4 * math.prod(shape)].view(torch.float32).view(shape)


def places(result: torch.Tensor, call: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Where the result of a call is expected, and the log-sum-exp where one is asked for."""
    out = result_place(result, call)
    return (out, lse_place(result, call)) if "lse" in call else (out,)


def deliver_all(returned: Any, expected: tuple[torch.Tensor, ...]) -> None:
    """Copy what a call returned to its places."""
    if len(expected) == 1:
        deliver(returned, expected[0])
    elif _is_pair(returned):
        for out, place in zip(returned, expected, strict=True):
            deliver(out, place)


def deliver(out: Any, place: torch.Tensor) -> None:
    """Copy a result of the right form to its place; the judge is told the form and sees what is missing."""
    if type(out) is torch.Tensor and (out.dtype, out.shape, out.device) == (place.dtype, place.shape, place.device):
        _copy(place, out)


def _copy(place: torch.Tensor, out: torch.Tensor) -> None:
    """Copy with one thread: torch's would wake its pool, which takes cores from kernels that have threads of their own.

    What only torch can copy it copies: on a GPU, and tensors that are not plain memory.
    """
    is_plain = place.device.type == "cpu" and out.layout is torch.strided and not out.is_neg()
    if not is_plain or out.numel() <= GRAIN:
        torch.Tensor.copy_(place, out)
    else:
        bits = BITS[place.dtype.itemsize]
        np.copyto(place.view(bits).numpy(), out.detach().view(bits).numpy())


def forms(returned: Any, arguments: Sequence[torch.Tensor], call: dict[str, Any]) -> list[dict[str, Any]]:
    """What a call returned, for the judge to compare with what was asked: a form, or two with a log-sum-exp."""
    if "lse" not in call:
        return [form(returned, arguments)]
    if not _is_pair(returned):
        return [{"plain": False, "type": type(returned).__name__[:80], "role": "pair"}]
    return [form(returned[0], arguments), form(returned[1], arguments) | {"role": "lse"}]


def _is_pair(returned: Any) -> bool:
    return type(returned) is tuple and len(returned) == 2


def form(out: Any, arguments: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What a tensor that a call returned looks like."""
    if type(out) is not torch.Tensor:
        return {"plain": False, "type": type(out).__name__[:80]}
    storage = out.untyped_storage().data_ptr()
    return {
        "plain": True,
        "shape": list(out.shape),
        "dtype": str(out.dtype).removeprefix("torch."),
        "device": out.device.type,
        "aliased": any(storage == x.untyped_storage().data_ptr() for x in arguments),
    }


def distinct(found_forms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different ones, at most MAX_FORMS: of more, all but one are wrong."""
    found: list[dict[str, Any]] = []
    for each in found_forms:
        if each not in found and len(found) < MAX_FORMS:
            found.append(each)
    return found
