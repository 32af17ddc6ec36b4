"""A spool in a folder, and evaluators whose evaluations cost milliseconds and are counted on disk."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.server import Served, Server
from pytest_avo.evaluation.worker_messages import Hello

KIND = Fingerprint(
    target="sm90", device="NVIDIA H200", units=132, driver="1", torch="2.11", triton="3.6", python="3.12", os="Linux 6"
)
OTHER = msgspec.structs.replace(KIND, device="NVIDIA H100")
PATIENCE_S = 180.0
LEASE_S = 60.0
"""A live server may stand still for a while, where the machine is busy."""


def shape(length: int) -> Shape:
    return Shape(
        batch=1, heads_q=1, heads_kv=1, seqlen_q=length, seqlen_kv=length, head_dim=32, causal=True, dtype="f32"
    )


SHAPES = (shape(16), shape(32), shape(48))


def request(source: str = "one", *, shapes: tuple[Shape, ...] = SHAPES, baseline: str = "old") -> EvaluationRequest:
    return EvaluationRequest(0, Subject("mine.py", source), shapes, baseline=Subject("old.py", baseline))


class Clerk:
    """An evaluator: each shape takes a while, and leaves a line in a log. The source says what is to happen."""

    def __init__(self, log: Path, *, each_s: float = 0.0) -> None:
        self.log = log
        self.each_s = each_s
        self.broken = ""

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        futures: dict[str, Future[Evaluation]] = {shape.id: Future() for shape in request.shapes}
        threading.Thread(target=self._work, args=(request, futures), daemon=True).start()
        return futures

    def _work(self, request: EvaluationRequest, futures: Mapping[str, Future[Evaluation]]) -> None:
        for name, future in futures.items():
            time.sleep(self.each_s)
            with self.log.open("a") as file:
                file.write(f"{request.subject.source} {name} {os.getpid()}\n")
            if self.broken or request.subject.source == "fails":
                future.set_exception(EvaluatorError(self.broken or "the incumbent failed"))
            else:
                future.set_result(Evaluation(name, "ok", reason=request.subject.source, device="GPU-1", check_s=0.5))

    def doing(self) -> str:
        return "at work"

    def news(self) -> list[str]:
        return []

    def work(self) -> list[Work]:
        return [Work("gw0", "box", "GPU-1", 0, 0.0, self.broken)]

    def close(self) -> None: ...


def hello(kind: Fingerprint = KIND) -> Hello:
    return Hello("box", os.getpid(), "GPU-1", kind, ("cudnn",), "landlock 7, seccomp")


def server(
    folder: SpoolFolder, clerk: Clerk, *, kind: Fingerprint = KIND, workers: int = 1, lease_s: float = LEASE_S
) -> Server:
    return Server(folder, clerk, hello(kind), workers=workers, say=_say, beat_s=0.05, lease_s=lease_s, linger_s=0.0)


def serve(folder: SpoolFolder, clerk: Clerk, *, kind: Fingerprint = KIND, for_s: float = PATIENCE_S) -> Served:
    return server(folder, clerk, kind=kind).serve(for_s=for_s)


def asked(folder: SpoolFolder) -> int:
    return len(folder.names("requests"))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> None:
    """Serve a folder until it is killed or nothing is left: FOLDER LOG SECONDS [HOW FAR THE CLOCK IS OFF]."""
    folder, log, each_s, *off = sys.argv[1:]
    if off:
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + float(off[0])
        time.time_ns = lambda: real_ns() + int(float(off[0]) * 1e9)
    spool = SpoolFolder(Path(folder))
    spool.make()
    served = server(spool, Clerk(Path(log), each_s=float(each_s))).serve()
    _say(f"{served.requests} requests, {served.evaluations} evaluations, {served.ended}")


if __name__ == "__main__":
    main()
