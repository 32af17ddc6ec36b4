"""The CPU as a device: all cores that this process may keep busy, the same number of threads for every kernel."""

from __future__ import annotations

from functools import cache

from pytest_avo.core.fingerprint import Fingerprint, cpu_name, fingerprint
from pytest_avo.evaluation.linux import cgroup, idleness

MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES = 32 << 20, 1 << 30
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD_BYTES),
}
"""glibc keeps freed blocks of up to 32 MiB, from the start. Left alone it learns to from what a process has freed: a
kernel that had been checked on many shapes was then measured faster than itself in a fresh process."""

SPINS = 10_000
"""Of a thread at a barrier of GNU's OpenMP, before it sleeps: half a millisecond. Left alone it spins for several."""


class CpuDevice:
    """The host's processor."""

    target = "cpu"
    id = "cpu"
    place = "cpu"
    peers = ("torch-sdpa",)

    def __init__(self, *, spins: bool | None = None) -> None:
        """spins: whether threads of kernels do, where that is decided."""
        self._spins = spins

    @property
    def threads(self) -> int:
        return cgroup.cores()

    def fingerprint(self) -> Fingerprint:
        return fingerprint(target="cpu", device=cpu_name(), units=self.threads)

    def environment(self) -> dict[str, str]:
        # On an idle machine it is waking up that takes the longest, and varies most: threads spin for a little first.
        return self.asleep() | ({"GOMP_SPINCOUNT": str(SPINS)} if self.spins else {})

    def asleep(self) -> dict[str, str]:
        """The same where threads sleep as soon as they wait for each other: those of a profile, which shows work alone.

        Threads that spin at a barrier while their partner waits for a core turn calls of 1 ms into scheduling quanta of
        8 ms as soon as anything else runs on the machine. All arms sleep there, so the comparison stays fair.
        """
        return {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"} | ALLOCATOR

    @property
    def spins(self) -> bool:
        """Whether threads of kernels spin at barriers: as decided, else whether this process found nothing at work."""
        return _found_idle(self.threads) if self._spins is None else self._spins

    def reading(self) -> None:
        """Nothing: a virtual machine's clock and temperature are not its own."""


@cache
def _found_idle(cores: int) -> bool:
    return idleness.are_idle(cores)
