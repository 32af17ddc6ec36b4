from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import torch

from pytest_avo.evaluation.devices import rates
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.rates import Rates, measured_rates, rates_path, store_rates, stored_rates

HERE = CpuDevice().fingerprint()
SLOW = Rates(HERE, {"f32": 1e9, "bf16": 5e9, "f16": 3e9}, 1e9)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_no_product_and_no_copy_here_is_faster_than_what_is_measured() -> None:
    measured = measured_rates(HERE, place="cpu", threads=1)
    a = torch.rand(300, 300)
    start = time.perf_counter()
    a @ a
    flops_per_s = 2 * 300**3 / (time.perf_counter() - start)
    x = torch.rand(1 << 22)
    start = time.perf_counter()
    x.clone()
    bytes_per_s = 2 * x.nbytes / (time.perf_counter() - start)
    for _ in range(20):
        if flops_per_s <= measured.flops_per_s["f32"] and bytes_per_s <= measured.bytes_per_s:
            break
        measured = measured.raised(measured_rates(HERE, place="cpu", threads=1))  # the machine was busy then
    assert 0 < flops_per_s < 1.5 * measured.flops_per_s["f32"] < 1.5e13
    assert 0 < bytes_per_s < 1.5 * measured.bytes_per_s < 1.5e13


def test_threads_are_counted_as_if_none_took_anything_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_flops_per_s", lambda *_: 2e9)
    monkeypatch.setattr(rates, "_bytes_per_s", lambda *_: 1e9)
    four = measured_rates(HERE, place="cpu", threads=4)
    assert (set(four.flops_per_s.values()), four.bytes_per_s) == ({8e9}, 4e9)


def test_rates_are_only_raised() -> None:
    other = Rates(HERE, {"f32": 2e9, "bf16": 4e9, "f16": 3e9}, 5e8)
    assert SLOW.raised(other) == Rates(HERE, {"f32": 2e9, "bf16": 5e9, "f16": 3e9}, 1e9)


def test_they_are_kept_for_the_same_fingerprint_alone() -> None:
    assert stored_rates(HERE) is None
    store_rates(SLOW)
    assert stored_rates(HERE) == SLOW
    assert stored_rates(msgspec.structs.replace(HERE, torch="3.0")) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_torn_file_is_as_good_as_none(content: bytes) -> None:
    rates_path(HERE).write_bytes(content)
    assert stored_rates(HERE) is None


def test_rates_that_are_none_are_not_believed() -> None:
    store_rates(msgspec.structs.replace(SLOW, bytes_per_s=0.0))
    assert stored_rates(HERE) is None
    store_rates(msgspec.structs.replace(SLOW, flops_per_s={"f32": 1e9}))
    assert stored_rates(HERE) is None


def test_a_cache_that_cannot_be_written_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    rates_path(HERE).mkdir()
    store_rates(SLOW)
    assert stored_rates(HERE) is None
