"""The CPU as a device: what kernels' processes get to know of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_avo.evaluation.devices import cpu
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.linux import idleness


@pytest.fixture
def unseen() -> Iterator[None]:
    """Nobody has looked yet whether the machine is idle, and what is seen here is forgotten."""
    cpu._found_idle.cache_clear()
    yield
    cpu._found_idle.cache_clear()


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("is_idle", [True, False])
def test_threads_spin_at_barriers_where_the_machine_was_idle_and_sleep_else(
    monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    looks: list[int] = []

    def look(cores: int) -> bool:
        looks.append(cores)
        return is_idle

    monkeypatch.setattr(idleness, "are_idle", look)
    found = [CpuDevice().environment() for _ in range(2)]
    assert found[0] == found[1]
    assert looks == [CpuDevice().threads], "what is decided holds for the life of a process"
    assert CpuDevice().spins == is_idle
    assert found[0]["OMP_WAIT_POLICY"] == "passive"
    assert ("GOMP_SPINCOUNT" in found[0]) == is_idle
    assert "GOMP_SPINCOUNT" not in CpuDevice().asleep()
    assert [deal(0, "cpu", spins=spins).spins for spins in (True, False)] == [True, False], "where it is decided"
