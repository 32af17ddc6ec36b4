"""Limits of control groups, as containers set them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_avo.evaluation.linux import cgroup

HERE = len(os.sched_getaffinity(0))


def machine(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    (tmp_path / "own").write_text(own)
    return tmp_path / "cgroup", tmp_path / "own"


@pytest.mark.parametrize(
    ("own", "files", "memory", "cores"),
    [
        ("0::/\n", {"memory.max": "104857600", "cpu.max": "100000 100000"}, 104857600, 1),
        ("0::/a/b\n", {"a/memory.max": "2097152", "a/b/memory.max": "max", "a/cpu.max": "50000 100000"}, 2097152, 1),
        ("0::/not/seen/here\n", {"memory.max": "4194304"}, 4194304, HERE),
        ("0::/\n", {"memory.max": "max", "cpu.max": "max 100000"}, None, HERE),
        (
            "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n",
            {
                "memory/docker/1/memory.limit_in_bytes": "8388608",
                "cpu/docker/1/cpu.cfs_quota_us": "150000",
                "cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            8388608,
            1,
        ),
        (
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"},
            None,
            HERE,
        ),
        ("", {}, None, HERE),
    ],
)
def test_the_tightest_limit_of_a_group_or_of_one_around_it_holds(
    tmp_path: Path, own: str, files: dict[str, str], memory: int | None, cores: int
) -> None:
    root, place = machine(tmp_path, own, files)
    assert cgroup.memory_bytes(root, place) == (memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    assert cgroup.cores(root, place) == cores


def test_a_machine_without_control_groups_has_what_it_has(tmp_path: Path) -> None:
    assert cgroup.cores(tmp_path / "none", tmp_path / "none") == HERE


def test_a_limit_of_memory_is_said_where_there_is_one(tmp_path: Path) -> None:
    assert cgroup.memory_limit(*machine(tmp_path, "0::/\n", {"memory.max": "max"})) == ""
    limited = machine(tmp_path, "0::/\n", {"memory.max": "300000000"})
    assert cgroup.memory_limit(*limited) == "its control group allows 300 MB of memory"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (
            "0::/a/b\n",
            {
                "a/cpu.max": "150000 100000",
                "a/cpu.stat": "usage_usec 2500000\nuser_usec 1",
                "a/b/cpu.max": "max 100000",
            },
            [(1.5, 2.5)],
        ),
        (
            "3:cpu,cpuacct:/docker/1\n",
            {
                "cpu/docker/1/cpu.cfs_quota_us": "200000",
                "cpu/docker/1/cpu.cfs_period_us": "100000",
                "cpu/docker/1/cpuacct.usage": "3000000000",
            },
            [(2.0, 3.0)],
        ),
        ("0::/\n", {"cpu.max": "100000 100000"}, [(1.0, 0.0)]),
        ("0::/\n", {"cpu.max": "max 100000", "cpu.stat": "usage_usec 7"}, []),
    ],
)
def test_what_a_quota_pays_for_and_what_is_used_of_it(
    tmp_path: Path, own: str, files: dict[str, str], expected: list[tuple[float, float]]
) -> None:
    found = cgroup.quotas(*machine(tmp_path, own, files))
    assert [(quota.cores, round(quota.used_s, 9)) for quota in found] == expected
