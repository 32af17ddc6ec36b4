"""The line at the start of a run that measures."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_avo import __version__
from pytest_avo.core.disk.places import is_noexec, scratch_folder
from pytest_avo.core.fingerprint import installed_version
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.assessors import lacking


def header(assessor: Assessor, *, peers: Sequence[str], baseline: str = "") -> str:
    """What is run, where, beside what, how kernels are confined, and what counts as noise."""
    fingerprint, noise = assessor.device.fingerprint(), assessor.noise
    parts = [
        assessor.settings.mode,
        f"{fingerprint.device} x{fingerprint.units}",
        f"torch {installed_version('torch')}",
        f"triton {installed_version('triton')}",
        f"peers {', '.join(peers) or 'none'}",
        *([f"compared with {baseline}"] if baseline else []),
        f"calls {'eager' if assessor.device.target == 'cpu' else assessor.settings.plan.calls}",
        f"sandbox {sandbox(assessor.confinement)}",
        f"noise floor {assessor.floor:.1%}" + (f" of {noise.measured}" if noise else " assumed"),
        *([] if assessor.is_remote else limits()),
    ]
    return f"avo: {__version__} ({'; '.join(parts)})"


def sandbox(layers: str) -> str:
    """What confines kernels and what does not, as in most containers: there whoever copies a file's mode is refused."""
    missing = [] if layers == "off" else lacking(layers)
    return layers + (f" (not offered: {', '.join(missing)})" if missing else "")


def limits() -> list[str]:
    """What cannot work on this machine, whatever the kernel."""
    if is_noexec(scratch_folder()):
        return ["temporary folders are mounted noexec, no kernel can load what it builds: set TMPDIR to another"]
    return []
