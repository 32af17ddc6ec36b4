"""The far end of a pool's gateway: one device, its judge, its fork server. Started by execnet, here or elsewhere.

Requests arrive and messages leave as JSON bytes with a fixed schema. The process ends, and takes everything below it
along, when the channel closes, however the controller ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from pytest_avo.core.disk.places import scratch_folder
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import EvaluationRequest
from pytest_avo.core.secret_names import is_secret
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.devices.cpu import MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES
from pytest_avo.evaluation.devices.device import Device
from pytest_avo.evaluation.devices.lease import lease, lease_path
from pytest_avo.evaluation.devices.local import deal, sharers
from pytest_avo.evaluation.linux import cgroup, python
from pytest_avo.evaluation.linux.removal import remove_tree
from pytest_avo.evaluation.pool.line import WorkerLine
from pytest_avo.evaluation.worker_messages import Evaluate, Failure, Finished, Hello, Prepare, ShapeDone, WorkerConfig

if TYPE_CHECKING:
    from pytest_avo.evaluation.arms.ahead import Ahead
    from pytest_avo.evaluation.correctness.room import Room
    from pytest_avo.evaluation.diagnosis.inspector import Inspector
    from pytest_avo.evaluation.judge.examiner import Examiner
    from pytest_avo.evaluation.judge.roofline import Roofline

QUIET_S = 0.05
"""Without a request for so long the worker verifies that ended processes are gone."""
JUDGING_CORES = 2
"""Cores that compilers of one kernel leave to the judge and to what is timed, before which they also stand back."""
MEMORY_SHARE = 0.5
"""A kernel's process may allocate this share of the memory that this process may use."""
JUDGE_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
KEEP_FREED = ((-3, MMAP_THRESHOLD_BYTES), (-1, TRIM_THRESHOLD_BYTES))
"""mallopt()'s M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, as in glibc's malloc.h: too late for variables in this process."""


def serve(channel: Any) -> None:
    """Answer requests from an execnet channel until it closes. Runs in the gateway's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's to handle
    _forget_secrets()
    line = WorkerLine(channel)
    spawners: list[Spawner] = []
    with _box() as box:

        def end() -> NoReturn:
            """End at once, also in the middle of a request."""
            try:
                for spawner in spawners:
                    spawner.kill()
                remove_tree(box)
            finally:
                os._exit(0)

        line.open(end)
        config = msgspec.json.decode(line.inbox.get(), type=WorkerConfig)
        device = deal(config.device, config.target, spins=config.spins)
        os.environ.update(device.environment())  # for the judge too: it sees the device that its kernels see
        warm = ["torch", "triton"] if device.place == "cuda" else ["torch"]
        is_cpu = device.place == "cpu"  # a GPU's processes share one memory for arguments
        spawner = Spawner(box=box, environment=device.environment(), warm=warm, place=device.place, spares=is_cpu)
        spawners.append(spawner)
        spawner.start(layers=config.layers)
        # torch takes two seconds to import: here and in the fork server at the same time.
        with python.importing():
            importlib.import_module("torch")
        _be_a_quiet_judge()
        spawner.wait()
        examiner = _examiner(device, spawner, config, line)
        inspector = _inspector(device, config)
        line.send(
            Hello(
                host=socket.gethostname(),
                pid=os.getpid(),
                device=device.id,
                fingerprint=device.fingerprint(),
                peers=device.peers,
                sandbox=", ".join(spawner.layers),
                looks_ahead=line.prepare is not None,
            )
        )
        threading.Thread(target=line.live, daemon=True, name="avo-life").start()
        _work(line, spawner, examiner, inspector, place=device.place)


def _work(line: WorkerLine, spawner: Spawner, examiner: Examiner, inspector: Inspector, *, place: str) -> NoReturn:
    """Do what is ordered, one order after the other, and a rehearsal where nothing is."""
    rehearsal: EvaluationRequest | None = None
    while True:
        if not line.has_order(within_s=QUIET_S):
            if rehearsal is not None:
                _rehearse(rehearsal, examiner, line)
                rehearsal = None
                continue
            spawner.settle()
            _share_memory(place)
        match line.order():
            case Evaluate(request=request):
                rehearsal = None
                _answer(request, examiner, inspector, line)
            case Prepare() as order:
                line.begin(order)
                rehearsal = order.rehearsal


def _examiner(device: Device, spawner: Spawner, config: WorkerConfig, line: WorkerLine) -> Examiner:
    """The judge of a device."""
    from pytest_avo.evaluation.arms.ahead import COMPILED_AHEAD, Ahead
    from pytest_avo.evaluation.arms.arms import Arms
    from pytest_avo.evaluation.judge.examiner import Examiner

    def waiting(who: str) -> None:
        line.say(f"waiting for {device.id}, which {who or 'another run'} has")

    def hold(exclusive: bool) -> AbstractContextManager[float]:
        return lease(lease_path(device.id), exclusive=exclusive, waiting=waiting)

    memory_bytes = int(MEMORY_SHARE * cgroup.memory_bytes())
    arms = Arms(
        spawner,
        threads=device.threads,
        sharing=config.workers,
        memory_bytes=memory_bytes,
        room=_room(device.place, sharers=sharers(config.dealing, config.target)),
    )
    ahead = None
    if device.target in COMPILED_AHEAD:
        known = device.fingerprint()
        jobs = max(1, (cgroup.cores() - JUDGING_CORES) // config.workers)
        ahead = Ahead(spawner, target=device.target, multiprocessors=known.units, jobs=jobs, memory_bytes=memory_bytes)

        line.prepare = partial(_prepare, ahead)
    return Examiner(
        arms,
        lease=hold,
        say=line.say,
        worker=config.worker,
        device=device.fingerprint().device,
        place=device.place,
        reading=device.reading,
        roofline=_roofline(device),
        ahead=ahead,
        spins=device.spins,
    )


def _prepare(ahead: Ahead, order: Prepare) -> None:
    """Begin to compile what will be asked about soon. What fails is no fault of the kernel that is asked now."""
    from pytest_avo.evaluation.arms.ahead import PATIENT_NICENESS

    for subject in order.subjects:
        with contextlib.suppress(EvaluatorError, OSError, *JUDGE_FAULTS):
            ahead.begin(
                subject, order.shapes, claim_alone=order.claim_alone, brief=order.brief, niceness=PATIENT_NICENESS
            )


def _inspector(device: Device, config: WorkerConfig) -> Inspector:
    """What looks into kernels on a device; it imports torch, which is not for this module's first lines."""
    from pytest_avo.evaluation.diagnosis.inspector import Inspector

    return Inspector(device, confined=config.layers)


def _share_memory(place: str) -> None:
    """Give back what this process has freed on a GPU and torch keeps: another run on it may be at work meanwhile."""
    if place == "cuda":
        import torch

        torch.cuda.empty_cache()


def _answer(request: EvaluationRequest, examiner: Examiner, inspector: Inspector, line: WorkerLine) -> None:
    """Answer a request shape by shape; a failure that is not the kernel's ends the answer."""
    number = line.number = request.number
    try:
        for evaluation in inspector.look(request) if request.look else examiner.examine(request):
            line.send(ShapeDone(number, evaluation))
        line.send(Finished(number))
    except EvaluatorError as error:
        line.send(Failure(number, str(error)))
    except JUDGE_FAULTS as error:  # a fault of this program: another worker would have it too
        line.send(Failure(number, f"the judge failed: {_where(error)}"))


def _rehearse(request: EvaluationRequest, examiner: Examiner, line: WorkerLine) -> None:
    """Check the baseline of what comes next until something comes. What fails is told whoever asks for it."""
    with contextlib.suppress(EvaluatorError, *JUDGE_FAULTS):
        examiner.rehearse(request, is_wanted=lambda: line.has_order(within_s=0.0))


def _roofline(device: Device) -> Roofline:
    """The bounds of the device, which is measured in this process."""
    from pytest_avo.evaluation.devices.rates import measured_rates
    from pytest_avo.evaluation.judge.roofline import Roofline

    known = device.fingerprint()
    return Roofline(
        known, place=device.place, measure=lambda: measured_rates(known, place=device.place, threads=device.threads)
    )


def _where(error: BaseException) -> str:
    """An error of this program in one line, with the place that a report of it wants."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"


def _forget_secrets() -> None:
    """Drop variables that look like keys, so that nothing this worker starts inherits them.

    Its own initial environment keeps them; a confined kernel cannot read that.
    """
    for name in [name for name in os.environ if is_secret(name)]:
        del os.environ[name]


def _be_a_quiet_judge() -> None:
    """One thread for the judge's own arithmetic, in full precision, and memory kept that it frees.

    A second thread would spin on a core that a kernel is timed on; NVIDIA's containers set a variable by which a GPU
    rounds the operands of products in single precision; inputs of several megabytes that are drawn for every round
    would have all their pages zeroed by the operating system first, which took longer than to draw them.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        for parameter, value in KEEP_FREED:
            mallopt(parameter, value)


def _room(place: str, *, sharers: int) -> Room:
    """What fits on the device as it is now; EvaluatorError where torch cannot use it."""
    from pytest_avo.evaluation.correctness.room import gpu_room, host_room

    if place != "cuda":
        return host_room(cgroup.memory_bytes())
    import torch

    if not torch.cuda.is_available():
        raise EvaluatorError(f"torch {torch.__version__} cannot use this machine's GPU")
    return gpu_room(torch.cuda.mem_get_info()[0], sharers=sharers)


@contextlib.contextmanager
def _box() -> Iterator[Path]:
    """A private folder for all kernels of this worker; those of workers that were killed are removed on the way."""
    base = scratch_folder()
    for stale in base.glob("pytest-avo-*-*"):
        with contextlib.suppress(ValueError, OSError):
            if not Path(f"/proc/{int(stale.name.split('-')[2])}").exists():
                remove_tree(stale)
    box = Path(tempfile.mkdtemp(prefix=f"pytest-avo-{os.getpid()}-", dir=base))
    try:
        yield box
    finally:
        remove_tree(box)
