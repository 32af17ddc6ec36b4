"""The noise floor that --avo-aa measured on this machine, kept for later runs under the machine's fingerprint."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import platformdirs

from pytest_avo.core import stats
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.stats import Launches

LEAST_FLOOR = 0.003
"""No machine is quieter than that for a claim about one kernel."""
DEVIATIONS = 2.0


class Noise(msgspec.Struct, frozen=True):
    """How far apart a kernel and itself were measured."""

    fingerprint: Fingerprint
    floor: float
    """Log-ratio below which a difference on one shape is noise."""
    comparisons: int
    """Kernels times shapes that it rests on."""
    measured: str
    """Day, as in 2026-11-25."""


def noise_of(comparisons: Sequence[Launches], fingerprint: Fingerprint) -> Noise:
    """The floor that comparisons of kernels with themselves show: log-ratios per launch and round of each.

    The larger of 0.3% and twice the root mean square of the comparisons' deviations. The deviation of one is its
    distance from zero, where it should be, together with its standard error (half of a 68% interval).
    """
    if not comparisons:
        raise ValueError("a noise floor wants at least one comparison")
    intervals = [stats.interval(launches, confidence=0.683) for launches in comparisons]
    squares = [found.estimate**2 + found.half_width**2 for found in intervals]
    floor = max(LEAST_FLOOR, DEVIATIONS * math.sqrt(sum(squares) / len(squares)))
    return Noise(fingerprint, floor, len(comparisons), datetime.now(UTC).date().isoformat())


def noise_path(fingerprint: Fingerprint) -> Path:
    """Where the floor of a machine and its versions is kept; one file for each, in the user's cache."""
    return platformdirs.user_cache_path("pytest-avo", ensure_exists=True) / f"noise-{fingerprint.digest}.json"


def store_noise(noise: Noise) -> Path:
    """Keep a floor; whoever reads it sees the old one or the new one."""
    path = noise_path(noise.fingerprint)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(noise)) + b"\n")
    os.replace(name, path)
    return path


def stored_noise(fingerprint: Fingerprint) -> Noise | None:
    """The floor measured on a machine with this fingerprint, or None: not measured, or not readable any more."""
    try:
        noise = msgspec.json.decode(noise_path(fingerprint).read_bytes(), type=Noise)
    except (OSError, msgspec.DecodeError):
        return None
    return noise if noise.fingerprint == fingerprint and 0 < noise.floor < math.inf else None
