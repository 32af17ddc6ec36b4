"""The devices of this machine, and how workers deal them among themselves."""

from __future__ import annotations

from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.device import Device


def devices() -> tuple[Device, ...]:
    """The devices that kernels are run on here, all of one kind, in a fixed order; never empty. Imports no torch."""
    return (CpuDevice(),)


def deal(ordinal: int) -> Device:
    """The device of a worker. Workers in excess of devices share them and wait for each other's leases."""
    found = devices()
    return found[ordinal % len(found)]
