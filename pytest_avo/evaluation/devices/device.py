"""The seam between the harness and a kind of device: `DeviceKind`, what a run knows of it, and `Device`, one of them.

A new kind of device implements `Device`, and `devices()` of `local.py` finds it. What a kernel's process does there is
chosen by `place`: memory in `arms/memory.py`, calls in `kernel_process/runner.py`.
"""

from __future__ import annotations

from typing import Protocol

from pytest_avo.core.evaluation import Reading
from pytest_avo.core.fingerprint import Fingerprint


class DeviceKind(Protocol):
    """What a run must know of the device that its kernels are evaluated on, here or on another host."""

    @property
    def target(self) -> str:
        """What kernels for it declare in `AVO`: "cpu", "sm90"."""

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the peers (`judge/peers.py`) that kernels are compared with unless the user names others."""

    def fingerprint(self) -> Fingerprint:
        """Hardware and versions that figures measured on it depend on: figures with other ones are not comparable."""


class Device(DeviceKind, Protocol):
    """One device of this machine. None of its methods imports torch or makes a context on the device."""

    @property
    def id(self) -> str:
        """A name that is unique on the host, and the same in every process: of the lock on the device."""

    @property
    def place(self) -> str:
        """Type of the torch device that tensors are on: "cpu" or "cuda"."""

    @property
    def threads(self) -> int:
        """How many threads of the host every kernel's process computes with."""

    @property
    def spins(self) -> bool:
        """Whether threads of the host spin before they sleep where they wait for each other; so times differ."""

    def environment(self) -> dict[str, str]:
        """Environment variables that a kernel's process needs on it."""

    def reading(self) -> Reading | None:
        """Its clocks (MHz), temperature (C) and power (W) at this moment; None where it does not tell them."""
