"""A GPU of NVIDIA's as a device: kernels' processes see this one and no other."""

from __future__ import annotations

from pytest_avo.core.evaluation import Reading
from pytest_avo.core.fingerprint import Fingerprint, fingerprint, installed_version
from pytest_avo.evaluation.devices.gpus import Gpu
from pytest_avo.evaluation.linux import cgroup

THROTTLES = {
    0x0004: "power cap",
    0x0008: "hardware slowdown",
    0x0020: "thermal slowdown",
    0x0040: "hardware thermal slowdown",
    0x0080: "power brake",
}
"""Bits of NVML's clock event reasons that mean the clock is below what was asked for."""


class CudaDevice:
    """One GPU, named by its UUID, so that two runs that number the GPUs differently share its lease."""

    place = "cuda"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._handle: object | None = None

    @property
    def target(self) -> str:
        major, minor = self._gpu.capability
        return f"sm{major}{minor}"

    @property
    def peers(self) -> tuple[str, ...]:
        """FlashAttention-4 and FlashInfer are timed wherever they are installed, and not missed where they are not."""
        optional = {"fa4": "flash-attn-4", "flashinfer": "flashinfer-python"}
        return (
            "cudnn",
            "fa2",
            "fa3",
            *(x for x, package in optional.items() if installed_version(package) != "absent"),
        )

    @property
    def id(self) -> str:
        return self._gpu.uuid

    @property
    def threads(self) -> int:
        return cgroup.cores()

    def fingerprint(self) -> Fingerprint:
        gpu = self._gpu
        return fingerprint(target=self.target, device=gpu.name, units=gpu.multiprocessors, driver=gpu.driver)

    @property
    def spins(self) -> bool:
        """No: it is not the host's threads that kernels are timed by."""
        return False

    def environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": self._gpu.uuid, "OMP_NUM_THREADS": str(self.threads)}

    def reading(self) -> Reading | None:
        """Clock, temperature and power at this moment, where nvidia-ml-py is installed."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            if self._handle is None:
                pynvml.nvmlInit()
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._gpu.uuid)
            handle = self._handle
            reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            return Reading(
                sm_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                memory_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
                temperature_c=pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
                power_w=pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                throttled=tuple(reason for bit, reason in THROTTLES.items() if reasons & bit),
            )
        except pynvml.NVMLError:
            return None
