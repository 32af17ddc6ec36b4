"""Inside a kernel's own process: load its file, answer calls. Nothing that this process says is believed unchecked.

It reads arguments from shared memory, calls attention(), copies the result out and says when it is done. It holds no
reference, no tolerance, no clock that decides, and no key.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from pytest_avo.evaluation.kernel_process.zygote import CHILD_INPUT, CHILD_OUTPUT, CHILD_SOCKET, MAX_MESSAGE

KERNEL_FILE = "kernel.py"
MAX_FORMS = 4
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def serve(*, threads: int, place: str, sizes: Sequence[int]) -> None:
    """Answer requests on the socket until it closes. Requests and replies are JSON, one message each.

    place: kind of torch device, "cpu" or "cuda". sizes: bytes of the memory for arguments and for results.
    """
    torch.set_num_threads(threads)
    link = socket.socket(fileno=CHILD_SOCKET)
    caller: Any = None
    attention: Any = None
    while message := link.recv(MAX_MESSAGE):
        request = json.loads(message)
        try:
            if caller is None:
                caller = _caller(place, sizes)
            if request["do"] == "load":
                attention = _load()
                reply: dict[str, Any] = {"said": "loaded"}
            else:
                reply = {"said": "done", **caller.answer(attention, request)}
        except Exception as error:
            reply = _error(error)
        link.send(json.dumps(reply).encode())


def _caller(place: str, sizes: Sequence[int]) -> Any:
    if place == "cpu":
        return HostCalls()
    from pytest_avo.evaluation.kernel_process.gpu_calls import GpuCalls

    return GpuCalls(*sizes)


class HostCalls:
    """Calls on tensors in the host's memory, one after another."""

    def __init__(self) -> None:
        self._given, self._result = (
            torch.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), dtype=torch.uint8)
            for descriptor in (CHILD_INPUT, CHILD_OUTPUT)
        )

    def answer(self, attention: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Make the calls of a request and say what they returned."""
        forms, total_s = [], 0.0
        for call in request["calls"]:
            arguments = tensors(self._given, call)
            start = time.perf_counter()
            out = attention(*arguments, causal=call["causal"], scale=call["scale"])
            total_s += time.perf_counter() - start
            deliver(out, result_place(self._result, call))
            forms.append(form(out, arguments))
        return {"calls": len(forms), "forms": distinct(forms), "seconds": total_s}


def tensors(given: torch.Tensor, call: dict[str, Any]) -> list[torch.Tensor]:
    """q, k and v of a call, as views of the memory for arguments."""
    dtype = _DTYPES[call["dtype"]]
    found = []
    for where in (call[name] for name in "qkv"):
        store = given[where["offset"] : where["offset"] + where["elements"] * dtype.itemsize].view(dtype)
        found.append(store.as_strided(where["shape"], where["stride"]))
    return found


def result_place(result: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    """Where the result of a call is expected: (batch, heads, seqlen, head_dim) over memory in the models' order."""
    dtype = _DTYPES[call["dtype"]]
    batch, heads, seqlen, head_dim = call["q"]["shape"]
    size = batch * heads * seqlen * head_dim * dtype.itemsize
    return result[call["out"] : call["out"] + size].view(dtype).view(batch, seqlen, heads, head_dim).transpose(1, 2)


def deliver(out: Any, place: torch.Tensor) -> None:
    """Copy a result of the right form to its place; the judge is told the form and sees what is missing."""
    if type(out) is torch.Tensor and (out.dtype, out.shape, out.device) == (place.dtype, place.shape, place.device):
        torch.Tensor.copy_(place, out)


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


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("kernel", os.path.join(os.getcwd(), KERNEL_FILE))
    if spec is None or spec.loader is None:
        raise ImportError("kernel file cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel"] = module
    spec.loader.exec_module(module)
    return module.attention


def _error(error: Exception) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename.endswith(KERNEL_FILE)), None)
    where = f" (line {line})" if line else ""
    traceback.print_exc()
    what = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return {"said": "error", "refused": isinstance(error, NotImplementedError), "what": what[:400] + where}
