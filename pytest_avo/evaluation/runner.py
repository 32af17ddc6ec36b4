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
from typing import Any

import torch

from pytest_avo.evaluation.zygote import CHILD_INPUT, CHILD_OUTPUT, CHILD_SOCKET, MAX_MESSAGE

KERNEL_FILE = "kernel.py"
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def serve(*, threads: int) -> None:
    """Answer requests on the socket until it closes. Requests and replies are JSON, one message each."""
    torch.set_num_threads(threads)
    link = socket.socket(fileno=CHILD_SOCKET)
    given = mmap.mmap(CHILD_INPUT, os.fstat(CHILD_INPUT).st_size)
    result = mmap.mmap(CHILD_OUTPUT, os.fstat(CHILD_OUTPUT).st_size)
    attention: Any = None
    while message := link.recv(MAX_MESSAGE):
        request = json.loads(message)
        try:
            if request["do"] == "load":
                attention = _load()
                reply: dict[str, Any] = {"said": "loaded"}
            else:
                reply = {"said": "done", "calls": [_call(attention, call, given, result) for call in request["calls"]]}
        except Exception as error:
            reply = _error(error)
        link.send(json.dumps(reply).encode())


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("kernel", os.path.join(os.getcwd(), KERNEL_FILE))
    if spec is None or spec.loader is None:
        raise ImportError("kernel file cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel"] = module
    spec.loader.exec_module(module)
    return module.attention


def _call(attention: Any, call: dict[str, Any], given: mmap.mmap, result: mmap.mmap) -> dict[str, Any]:
    q, k, v = (_view(given, call[name], call["dtype"]) for name in "qkv")
    start = time.perf_counter()
    out = attention(q, k, v, causal=call["causal"], scale=call["scale"])
    seconds = time.perf_counter() - start
    plain = type(out) is torch.Tensor
    if not plain:
        return {"plain": False, "type": type(out).__name__[:80], "seconds": seconds}
    dtype = str(out.dtype).removeprefix("torch.")
    fits = dtype == str(_DTYPES[call["dtype"]]).removeprefix("torch.") and list(out.shape) == call["q"]["shape"]
    if fits and out.device.type == "cpu":
        target = torch.frombuffer(result, dtype=out.dtype, count=out.numel(), offset=call["out"])
        torch.Tensor.copy_(target.view(out.shape), out)
    storage = out.untyped_storage().data_ptr()
    return {
        "plain": True,
        "shape": list(out.shape),
        "dtype": dtype,
        "device": out.device.type,
        "aliased": any(storage == x.untyped_storage().data_ptr() for x in (q, k, v)),
        "seconds": seconds,
    }


def _view(memory: mmap.mmap, where: dict[str, Any], dtype: str) -> torch.Tensor:
    store = torch.frombuffer(memory, dtype=_DTYPES[dtype], count=where["elements"], offset=where["offset"])
    return store.as_strided(where["shape"], where["stride"])


def _error(error: Exception) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename.endswith(KERNEL_FILE)), None)
    where = f" (line {line})" if line else ""
    traceback.print_exc()
    what = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return {"said": "error", "refused": isinstance(error, NotImplementedError), "what": what[:400] + where}
