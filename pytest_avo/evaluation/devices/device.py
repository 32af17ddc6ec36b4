"""The seam between the harness and a kind of device."""

from __future__ import annotations

from typing import Protocol

from pytest_avo.core.evaluation import Reading
from pytest_avo.core.fingerprint import Fingerprint


class DeviceKind(Protocol):
    """What a run must know of the device that its kernels are evaluated on, here or on another host."""

    @property
    def target(self) -> str:
        """What kernels for it declare in AVO: "cpu", "sm90"."""

    @property
    def peers(self) -> tuple[str, ...]:
        """The peers that kernels are compared with unless the user names others."""

    def fingerprint(self) -> Fingerprint:
        """What figures measured on it depend on."""


class Device(DeviceKind, Protocol):
    """One device of this machine. Asking it anything imports no torch."""

    @property
    def id(self) -> str:
        """Unique on the host; names the lease."""

    @property
    def place(self) -> str:
        """Kind of torch device that tensors are on: "cpu" or "cuda"."""

    @property
    def threads(self) -> int:
        """Threads of the host that every kernel's process may compute with."""

    def environment(self) -> dict[str, str]:
        """Variables that a kernel's process needs on it."""

    def reading(self) -> Reading | None:
        """Its clocks, temperature and power at this moment, where it tells them."""
