"""A worker that runs no kernel: what a pool makes of workers takes no torch, and so no seconds to start.

It is a process of its own behind a real gateway, with the line that real workers have.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any, NoReturn

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.pool.line import WorkerLine
from pytest_avo.evaluation.worker_messages import Finished, Hello, Prepare, ShapeDone, WorkerConfig
from tests import ROOT

BOOTSTRAP = f"""
import sys
sys.path[:] = [{str(ROOT)!r}, *{{folders!r}}, *sys.path]
channel.send([{{version!r}}, sys.executable])
from tests.evaluation.pool.scripted_worker import serve
serve(channel)
"""
"""In the place of the gateway's own."""
SHAPE_S = 0.3


def serve(channel: Any) -> None:
    """Call every kernel right, a shape after the other, until the channel closes; the log says what was prepared."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the main thread alone, as in a real worker
    line = WorkerLine(channel)
    line.open(end)
    config = msgspec.json.decode(line.inbox.get(), type=WorkerConfig)
    layers = "landlock 7, seccomp" if config.layers else ""
    kind, prepared = CpuDevice().fingerprint(), list[str]()
    line.prepare = lambda order: prepared.extend(subject.label for subject in order.subjects)
    line.send(Hello(socket.gethostname(), os.getpid(), "cpu", kind, ("torch-sdpa",), layers, looks_ahead=True))
    while True:
        order = line.order()
        if isinstance(order, Prepare):
            line.begin(order)
            continue
        request = order.request
        for number, shape in enumerate(request.shapes, start=1):
            line.say(f"checking {request.subject.label} on {shape.id} ({number} of {len(request.shapes)})")
            time.sleep(SHAPE_S)
            found = Evaluation(
                shape.id, "ok", seed=time.time_ns(), worker=config.worker, device="cpu", log=" ".join(prepared)
            )
            line.send(ShapeDone(request.number, found))
        line.send(Finished(request.number))


def end() -> NoReturn:
    os._exit(0)
