"""The noise floor that --avo-aa measured on this machine, kept for later runs under the machine's fingerprint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_avo.core import stats
from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.disk.places import cache_folder, cached
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.ranking import DEVIATION, floor_of
from pytest_avo.core.stats import Launches


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
    """The floor that comparisons of kernels with themselves show: log-ratios per launch and round of each."""
    if not comparisons:
        raise ValueError("a noise floor wants at least one comparison")
    floor = floor_of([stats.interval(launches, confidence=DEVIATION) for launches in comparisons])
    return Noise(fingerprint, floor, len(comparisons), datetime.now(UTC).date().isoformat())


def noise_path(fingerprint: Fingerprint) -> Path:
    """Where the floor of a machine and its versions is kept; one file for each, in the user's cache."""
    return cache_folder() / _name(fingerprint)


def store_noise(noise: Noise) -> Path:
    """Keep a floor; InvalidInput where the user's cache cannot be written."""
    path = noise_path(noise.fingerprint)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(noise)).decode() + "\n")
    return path


def stored_noise(fingerprint: Fingerprint) -> Noise | None:
    """The floor measured on a machine with this fingerprint, or None: not measured, or not readable any more."""
    try:
        noise = msgspec.json.decode(cached(_name(fingerprint)).read_bytes(), type=Noise)
    except (OSError, InvalidInput, msgspec.DecodeError):
        return None
    return noise if noise.fingerprint == fingerprint and 0 < noise.floor < math.inf else None


def _name(fingerprint: Fingerprint) -> str:
    return f"noise-{fingerprint.digest}.json"
