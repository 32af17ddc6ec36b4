"""Runs ncu, NVIDIA's profiler of single launches, over one call of a kernel. It multiplies the time of that call."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.counters.call import FAULT
from pytest_avo.evaluation.diagnosis.counters.measured import MeasuredLaunch, measured

LIMIT_S = 180.0
MOST_LAUNCHES = 8
"""How many launches of a call are counted: the first ones."""
SECTIONS = (
    "SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy", "SchedulerStats",
    "WarpStateStats", "SourceCounters",
)  # fmt: skip
REPORT = "counters.ncu-rep"
USUAL_PLACE = Path("/usr/local/cuda/bin/ncu")
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "CUDA_HOME")
"""What of this process's environment a kernel's process on a GPU may need."""


class NoCounters(Exception):
    """Counters cannot be read here; the message says why."""


def count(kernel: Kernel, shape: Shape, *, environment: Mapping[str, str], confined: bool) -> list[MeasuredLaunch]:
    """What ncu counts of each launch of one call. environment: the device's.

    NoCounters where this machine does not let them be read, EvaluatorError where the kernel fails or takes LIMIT_S.
    """
    ncu = _program()
    arguments = ["--shape", msgspec.json.encode(shape).decode()]
    sections = [word for name in SECTIONS for word in ("--section", name)]
    under = [
        ncu, "--target-processes", "application-only", "--profile-from-start", "off", "--clock-control", "none",
        "--launch-count", str(MOST_LAUNCHES), "--import-source", "no", *sections, "--force-overwrite", "--export",
        REPORT.removesuffix(".ncu-rep"),
    ]  # fmt: skip
    with (
        Child(
            "counters.call", kernel, confined=confined, arguments=arguments, under=under,
            environment=with_libraries(environment),
        ) as child,
        child.within(LIMIT_S),
    ):  # fmt: skip
        said = child.answers.read().decode(errors="replace")
        child.status()
        report = child.scratch / REPORT
        if not child.in_time:
            raise EvaluatorError(f"{kernel.path.name}: no counters within {LIMIT_S:g} s")
        if fault := fault_of(child.end_of_words()):
            raise EvaluatorError(f"{kernel.path.name}: no profile: {fault}")
        if not report.is_file():
            raise NoCounters(why_none(said + child.end_of_words()))
        found = measured(_page(ncu, report, "raw"), _page(ncu, report, "source", "--print-source", "sass"))
        if not found:
            raise NoCounters(why_none(said))
        return found


def fault_of(said: str) -> str:
    """What the kernel raised, by the line that its process ends with; "" where it did not."""
    lines = [line for line in said.splitlines() if line.startswith(FAULT)]
    return lines[-1].removeprefix(FAULT) if lines else ""


def why_none(said: str) -> str:
    """Why ncu counted nothing, by what it printed."""
    if "ERR_NVGPUCTRPERM" in said:
        return "the driver lets only administrators read the GPU's counters (ERR_NVGPUCTRPERM)"
    for kind in ("ERROR", "WARNING"):
        for line in said.splitlines():
            if line.startswith(f"=={kind}==") and "unmodified GPU clocks" not in line:
                return f"ncu: {' '.join(line.removeprefix(f'=={kind}==').split())}"
    return "ncu counted nothing, and does not say why"


def with_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """The device's variables, and those by which its libraries are found."""
    return {**{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}, **environment}


def _program() -> str:
    found = shutil.which("ncu") or (str(USUAL_PLACE) if USUAL_PLACE.is_file() else "")
    if not found:
        raise NoCounters("ncu (NVIDIA Nsight Compute) is not on this machine")
    return found


def _page(ncu: str, report: Path, page: str, *options: str) -> str:
    """A page of a report as CSV, in base units."""
    command = [ncu, "--import", str(report), "--page", page, *options, "--csv", "--print-units", "base"]
    private = {"HOME": str(report.parent), "TMPDIR": str(report.parent), "PATH": os.environ.get("PATH", "")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=private).stdout
