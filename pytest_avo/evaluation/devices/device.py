"""The seam between the harness and a kind of device."""

from __future__ import annotations

from typing import Protocol

from pytest_avo.core.fingerprint import Fingerprint


class Device(Protocol):
    """One device of this machine. Asking it anything imports no torch."""

    @property
    def target(self) -> str:
        """What kernels for it declare in AVO: "cpu", "sm90"."""

    @property
    def id(self) -> str:
        """Unique on the host; names the lease."""

    @property
    def peers(self) -> tuple[str, ...]:
        """The peers that kernels are compared with unless the user names others."""

    @property
    def threads(self) -> int:
        """Threads of the host that every kernel's process may compute with."""

    def fingerprint(self) -> Fingerprint:
        """What figures measured on it depend on."""

    def environment(self) -> dict[str, str]:
        """Variables that a kernel's process needs on it."""
