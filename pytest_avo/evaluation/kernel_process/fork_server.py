"""The process that kernels' processes are forked from: torch imported, no kernel's code, no device call, ever.

Started by a worker with one control socket (SOCK_SEQPACKET). Requests are JSON; a fork request carries the child's
socket, its input and output memory and its log as descriptors. The fork server ends, with all below it, when the worker
does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from pytest_avo.evaluation.kernel_process.wire import CHILD_INPUT, CHILD_OUTPUT, CHILD_SOCKET, MAX_MESSAGE
from pytest_avo.evaluation.linux import namespaces, processes, python, sandbox


def main() -> None:
    """Serve fork and reap requests until the worker closes the control socket."""
    descriptor, layers, place, *warm = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    sandbox.be_told_of_parents_end(signal.SIGTERM)
    held = sandbox.enter_namespaces(gpu=place == "cuda") if layers == "layers" else []
    sandbox.become_subreaper()
    # A collection of garbage in a child would copy all pages of what is imported.
    with python.importing():
        for module in warm:
            importlib.import_module(module)
        runner = importlib.import_module("pytest_avo.evaluation.kernel_process.runner")
        importlib.import_module("pytest_avo.evaluation.kernel_process.first_calls").settle()
        if place == "cuda":
            # A confined child could not read their files.
            importlib.import_module("pytest_avo.evaluation.kernel_process.gpu_calls")
            with contextlib.suppress(Exception):  # another Triton than those known: nothing is compiled ahead
                importlib.import_module("pytest_avo.evaluation.kernel_process.ahead").recall()
        sandbox.recall()
    control = socket.socket(fileno=int(descriptor))
    control.send(json.dumps({"layers": held}).encode())
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE, 4)
        if not message:
            break
        request = json.loads(message)
        if request["do"] in ("fork", "compile"):
            pid = namespaces.fork_in_pid_namespace() if sandbox.PID_NAMESPACE in held else os.fork()
            if pid == 0 and request["do"] == "fork":
                serve = partial(runner.serve, threads=request["threads"], place=place, sizes=request["sizes"])
                become_child(descriptors, serve, request, layers == "layers", gpu=place == "cuda")
            elif pid == 0:
                os.nice(request["niceness"])
                ahead = importlib.import_module("pytest_avo.evaluation.kernel_process.ahead")
                become_child(descriptors, partial(ahead.serve, **request["how"]), request, layers == "layers")
            for received in descriptors:
                os.close(received)
            children.add(pid)
            control.send(json.dumps({"pid": pid}).encode())
        else:
            pid = request["pid"]
            status = os.waitpid(pid, 0)[1]
            children.discard(pid)
            sweep(children)
            control.send(json.dumps({"status": status}).encode())
    end()


def end(*_: object) -> NoReturn:
    """Take everything below along. Also on SIGTERM, which the worker's death sends."""
    sweep(set())
    os._exit(0)


def become_child(
    descriptors: list[int], serve: Callable[[], None], request: dict[str, Any], layers: bool, *, gpu: bool = False
) -> None:
    """In the forked child: own process group, own descriptors alone, confined; then serve calls. Never returns.

    gpu: let it reach the device.
    """
    status = 1
    try:
        os.setsid()
        sandbox.be_told_of_parents_end(signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(os.devnull, os.O_RDONLY)
        os.dup2(log, 0)
        os.dup2(descriptors[3], 1)
        os.dup2(descriptors[3], 2)
        for target, source in zip((13, 14, 15), descriptors[:3], strict=True):
            os.dup2(source, target)
        for target in (CHILD_SOCKET, CHILD_INPUT, CHILD_OUTPUT):
            os.dup2(target + 10, target)
        os.closerange(CHILD_OUTPUT + 1, 1024)
        scratch = request["scratch"]
        os.chdir(scratch)
        os.environ.pop("PYTHONPATH", None)
        os.environ.update(request["environment"])
        memory = request["memory_bytes"]
        sandbox.confine(sandbox.Confinement(scratch=scratch, memory_bytes=memory, layers=layers, gpu=gpu))
        serve()
        status = 0
    finally:
        os._exit(status)


def sweep(keep: set[int]) -> None:
    """Kill and reap every child that is not in `keep`: orphans that left their group."""
    while strays := [pid for pid in processes.children(os.getpid()) if pid not in keep]:
        for pid in strays:
            processes.kill_group(pid)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
