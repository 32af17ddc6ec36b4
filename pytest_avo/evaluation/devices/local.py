"""The devices of this machine, and how workers deal them among themselves."""

from __future__ import annotations

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.cuda import CudaDevice
from pytest_avo.evaluation.devices.device import Device
from pytest_avo.evaluation.devices.gpus import gpus


def devices(target: str = "", *, spins: bool | None = None) -> tuple[Device, ...]:
    """The devices of one kind that kernels are run on here, in a fixed order. Imports no torch.

    target: what kernels declare, "cpu" or "sm90"; none here may be of that kind. Without one, the kind that this
    machine is for: its first GPU's, or the CPU. spins: see CpuDevice.
    """
    found: list[Device] = [CudaDevice(gpu) for gpu in gpus()] if target != "cpu" else []
    found.append(CpuDevice(spins=spins))
    return tuple(device for device in found if device.target == (target or found[0].target))


def deal(ordinal: int, target: str = "", *, spins: bool | None = None) -> Device:
    """The device of a worker, one of `devices`. Workers in excess share them and wait for each other's leases.

    EvaluatorError where this machine has none of the kind.
    """
    found = devices(target, spins=spins)
    if not found:
        raise EvaluatorError(f"this machine has no device for {target} kernels")
    return found[ordinal % len(found)]


def sharers(dealing: int, target: str = "") -> int:
    """How many of so many workers have the same device at most: their kernels' memory must fit on it side by side."""
    return -(-dealing // len(devices(target)))
