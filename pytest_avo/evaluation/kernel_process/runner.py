"""Inside a kernel's own process: load its file, answer calls. Nothing that this process says is believed unchecked.

It reads arguments from shared memory, calls attention(), copies the result out and says when it is done. It holds no
reference, no tolerance, no clock that decides, and no key.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from pytest_avo.evaluation.kernel_process.host_calls import HostCalls
from pytest_avo.evaluation.kernel_process.wire import CHILD_SOCKET, FUNCTIONS, KERNEL_FILE, MAX_MESSAGE


def serve(*, threads: int, place: str, sizes: Sequence[int]) -> None:
    """Answer requests on the socket until it closes. Requests and replies are JSON, one message each.

    place: kind of torch device, "cpu" or "cuda". sizes: bytes of the memory for arguments and for results.
    """
    torch.set_num_threads(threads)
    link = socket.socket(fileno=CHILD_SOCKET)
    caller: Any = None
    functions: dict[str, Any] = {}
    while message := link.recv(MAX_MESSAGE):
        request = json.loads(message)
        try:
            if caller is None:
                caller = _caller(place, sizes)
            if request["do"] == "load":
                functions = load()
                reply: dict[str, Any] = {"said": "loaded"}
            elif request["do"] == "enqueue":
                caller.enqueue(functions, request)
                reply = {"said": "enqueued"}
            elif request["do"] == "finish":
                reply = {"said": "done", **caller.finish()}
            else:
                reply = {"said": "done", **caller.answer(functions, request)}
        except Exception as error:
            reply = _error(error)
        link.send(json.dumps(reply).encode())


def _caller(place: str, sizes: Sequence[int]) -> Any:
    if place == "cpu":
        return HostCalls()
    from pytest_avo.evaluation.kernel_process.gpu_calls import GpuCalls

    return GpuCalls(*sizes)


def load() -> dict[str, Any]:
    """Import the kernel's file; what it offers, by name."""
    spec = importlib.util.spec_from_file_location("kernel", os.path.join(os.getcwd(), KERNEL_FILE))
    if spec is None or spec.loader is None:
        raise ImportError("kernel file cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel"] = module
    spec.loader.exec_module(module)
    module.attention  # noqa: B018 - its absence is an error now, that of others when they are called
    return {name: getattr(module, name) for name in FUNCTIONS if hasattr(module, name)}


def _error(error: Exception) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename.endswith(KERNEL_FILE)), None)
    where = f" (line {line})" if line else ""
    traceback.print_exc()
    what = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    what = what.encode(errors="replace").decode()  # what is no text (bytes of a file's name, say) cannot be told
    return {"said": "error", "refused": isinstance(error, NotImplementedError), "what": what[:400] + where}
