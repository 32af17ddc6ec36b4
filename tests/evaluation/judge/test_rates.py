from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import torch

from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.judge.rates import Rates, measured_rates, rates_path, store_rates, stored_rates

HERE = CpuDevice().fingerprint()
SLOW = Rates(HERE, {"f32": 1e9, "bf16": 5e9, "f16": 3e9}, 1e9)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_no_product_and_no_copy_here_is_faster_than_what_is_measured() -> None:
    rates = measured_rates(HERE, place="cpu", threads=1)
    a = torch.rand(300, 300)
    start = time.perf_counter()
    a @ a
    seconds = time.perf_counter() - start
    assert 1e8 < 2 * 300**3 / seconds < 1.5 * rates.flops_per_s["f32"]
    x = torch.rand(1 << 22)
    start = time.perf_counter()
    x.clone()
    assert 2 * x.nbytes / (time.perf_counter() - start) < 1.5 * rates.bytes_per_s
    assert rates.bytes_per_s < 1e13


def test_threads_are_counted_as_if_none_took_anything_from_another() -> None:
    one, four = (measured_rates(HERE, place="cpu", threads=threads) for threads in (1, 4))
    assert four.flops_per_s["f32"] > 2 * one.flops_per_s["f32"]


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
