"""One call inside a kernel's process: its arguments, where its result belongs, and what is said of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from pytest_avo.evaluation.kernel_process.wire import MAX_FORMS

BITS = {2: torch.int16, 4: torch.int32}
"""By bytes of an element: what NumPy can hold, which knows no bfloat16."""
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


def result_place(result: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    """Where the result of a call is expected: (batch, heads, seqlen, head_dim) over memory in the models' order."""
    dtype = TORCH_DTYPES[call["dtype"]]
    batch, heads, seqlen, head_dim = call["q"]["shape"]
    size = batch * heads * seqlen * head_dim * dtype.itemsize
    return result[call["out"] : call["out"] + size].view(dtype).view(batch, seqlen, heads, head_dim).transpose(1, 2)


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


def form(out: Any, arguments: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What a call returned, for the judge to compare with what was asked."""
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


def distinct(forms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different ones, at most MAX_FORMS: of more, all but one are wrong."""
    found: list[dict[str, Any]] = []
    for each in forms:
        if each not in found and len(found) < MAX_FORMS:
            found.append(each)
    return found
