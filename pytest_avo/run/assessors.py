"""Makes the assessor of a run, on this machine, on other hosts or by way of a spool, once its device is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from pytest_avo import __version__
from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.evaluation.devices.lease import check_locks
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.devices.remote import RemoteDevice
from pytest_avo.evaluation.evaluator import Evaluator
from pytest_avo.evaluation.linux.cgroup import memory_bytes, memory_limit
from pytest_avo.evaluation.linux.sandbox import offered_layers
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.jobs import BatchJobs
from pytest_avo.evaluation.spool.notes import Introduction
from pytest_avo.evaluation.spool.places import SpoolAddress, choose, introductions
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings

LAYERS = ("pid namespace", "no network", "landlock", "seccomp", "own mounts")
"""What confines a kernel where the user requires that it is confined."""


LEAST_MEMORY_BYTES = 500_000_000
"""With less, a control group kills honest kernels: 470 MB was too little, 580 enough, with torch 2.13 on a CPU."""


def assess_here(
    settings: Settings, console: Console, *, ordinal: int = 0, dealing: int = 1, specs: Sequence[str] = ("popen",)
) -> Assessor:
    """Have kernels evaluated on this machine; InvalidInput where it does not confine them as the user requires.

    Also where it has too little memory, or no locks. ordinal: of this process among those that deal the machine's
    devices, dealing: how many they are; specs: of its workers' gateways.
    """
    if (limited := memory_limit()) and memory_bytes() < LEAST_MEMORY_BYTES:
        raise InvalidInput(f"{limited}, expected at least {LEAST_MEMORY_BYTES / 1e6:.0f}: torch in several processes")
    check_locks()

    def start(target: str) -> Evaluator:
        device = deal(ordinal, target, spins=assessor.spins)
        return Pool(
            specs,
            layers=settings.sandbox != "off",
            first_device=ordinal,
            dealing=dealing,
            kind=device.fingerprint(),
            spins=device.spins,  # before any of them works here: all are alike then, also one that is started again
        )

    assessor = Assessor(settings, deal(ordinal), console, start=start, confinement=confinement(settings.sandbox))
    return assessor


def assess_elsewhere(settings: Settings, console: Console, *, specs: Sequence[str]) -> Assessor:
    """Have kernels evaluated on other hosts too: what the workers there run on and offer is what counts then.

    InvalidInput where no worker can be used.
    """
    pool = Pool(specs, layers=settings.sandbox != "off", required=required_layers(settings))
    try:
        hello = pool.meet()
    except EvaluatorError as error:
        pool.close()
        raise InvalidInput(f"--tx: {error}") from None
    device = RemoteDevice(hello.fingerprint, hello.peers)
    assessor = Assessor(settings, device, console, start=lambda _: pool, confinement=hello.sandbox or "none")
    assessor.evaluator  # noqa: B018 - there from the start, so that whoever closes the assessor closes it
    return assessor


def assess_by_spool(settings: Settings, console: Console, *, address: SpoolAddress) -> Assessor:
    """Have kernels evaluated by way of a spool: the kind of device that has served it is what counts then.

    InvalidInput where none has, and no job can be started to find out.
    """
    folder = SpoolFolder(address.path)
    folder.make()
    jobs = BatchJobs(settings.submit) if settings.submit else None
    found = introductions(folder)
    if not found and jobs is not None:
        found = _await_introduction(folder, jobs, console)
    if not found:
        raise InvalidInput(
            f"--tx spool={address.path}: expected to find there what kind of device it has: run `pytest --avo-serve "
            f"{address.path}` on the machine with the device once, with pytest-avo {__version__}"
        )
    introduction, required = choose(found, address), required_layers(settings)
    if required and (missing := lacking(introduction.sandbox)):
        raise InvalidInput(f"--avo-sandbox=require: the spool's host does not offer {', '.join(missing)}")
    spool = SpoolClient(folder, introduction.fingerprint, required=required, jobs=jobs)
    device = RemoteDevice(introduction.fingerprint, introduction.peers)
    layers = introduction.sandbox or "none"
    assessor = Assessor(settings, device, console, start=lambda _: spool, confinement=layers, spool=spool)
    assessor.evaluator  # noqa: B018 - as above
    return assessor


def required_layers(settings: Settings) -> tuple[str, ...]:
    """The layers without which no kernel is run, wherever that is."""
    return LAYERS if settings.sandbox == "require" else ()


def confinement(sandbox: Literal["auto", "require", "off"]) -> str:
    """The layers that confine kernels here; InvalidInput where the user requires more than the machine offers."""
    if sandbox == "off":
        return "off"
    offered = ", ".join(offered_layers())
    if sandbox == "require" and (missing := lacking(offered)):
        raise InvalidInput(f"--avo-sandbox=require: this machine does not offer {', '.join(missing)}")
    return offered or "none"


def lacking(offered: str) -> list[str]:
    """The layers that are not among those offered, as a worker names its own: `landlock 7, seccomp`."""
    return [layer for layer in LAYERS if layer not in offered]


def _await_introduction(folder: SpoolFolder, jobs: BatchJobs, console: Console) -> list[Introduction]:
    """Have a job started, and wait until it has said what kind of device it runs on."""
    try:
        while not (found := introductions(folder)):
            for line in jobs.look(is_served=False):
                console.warn(line)
            time.sleep(0.2)
        jobs.excuse()
    except EvaluatorError as error:
        raise InvalidInput(str(error)) from None
    finally:
        if not folder.names("devices"):
            jobs.close()
    return found
