"""What a figure depends on: the machine and the versions it was measured with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path

import msgspec

KIND = ("target", "device", "units", "torch", "triton")
"""Fields that make two devices one kind."""


class Fingerprint(msgspec.Struct, frozen=True):
    """Two runs whose fingerprints differ must not be compared."""

    target: str
    device: str
    units: int
    """Threads of a CPU, streaming multiprocessors of a GPU."""
    driver: str
    torch: str
    triton: str
    python: str
    os: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    @property
    def words(self) -> str:
        """The device and what a kernel finds there, in words."""
        versions = (("torch", self.torch), ("Triton", self.triton), ("Python", self.python))
        return ", ".join([f"{self.device} x{self.units}", *(f"{name} {text}" for name, text in versions)])

    @property
    def kind(self) -> str:
        """A name of its kind of device: the same for two that have no `differences_in_kind`."""
        fields = [getattr(self, name) for name in KIND]
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:12]


def differences(ours: Fingerprint, theirs: Fingerprint) -> list[str]:
    """One line for each field in which two machines differ."""
    mine, other = msgspec.structs.asdict(ours), msgspec.structs.asdict(theirs)
    return [f"{key}: {other[key]} there, {mine[key]} here" for key in mine if mine[key] != other[key]]


def differences_in_kind(ours: Fingerprint, theirs: Fingerprint) -> list[str]:
    """As `differences`, in what makes two devices one kind: the device itself and what compiles kernels for it.

    Devices of one kind may share the attempts of a run. What is left out (driver, Python, operating system) shifts
    figures, but both arms of a comparison alike.
    """
    return [line for line in differences(ours, theirs) if line.partition(":")[0] in KIND]


def fingerprint(*, target: str, device: str, units: int, driver: str = "") -> Fingerprint:
    """The fingerprint of a device of this machine. Imports nothing heavy: versions come from package metadata."""
    return Fingerprint(
        target=target,
        device=device,
        units=units,
        driver=driver,
        torch=installed_version("torch"),
        triton=installed_version("triton"),
        python=platform.python_version(),
        os=f"{platform.system()} {platform.release()}",
    )


def cpu_name() -> str:
    """The processor as the machine names it, and as results have it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def installed_version(package: str) -> str:
    """Version of an installed package, or "absent"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
