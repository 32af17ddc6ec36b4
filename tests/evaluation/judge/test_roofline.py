from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from pytest_avo.core.evaluation import KERNEL, Timing
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.rates import Rates
from pytest_avo.evaluation.judge.roofline import Roofline, bound, least_bytes, least_flops, matrix_rate
from tests.evaluation.laboratory import shape

HERE = CpuDevice().fingerprint()
RATES = Rates(HERE, {"f32": 1e12, "bf16": 6e12, "f16": 2e12}, 1e11)
LONG = shape(heads=(8, 8), lengths=(4096, 4096), causal=False)
DECODE = shape(heads=(8, 8), lengths=(1, 4096), causal=False)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def timed(seconds: float) -> Timing:
    return Timing({KERNEL: ((seconds, seconds, 50 * seconds),)}, calls=1, stopped="")


def roofline(*measured: Rates) -> Roofline:
    """One whose device is measured once for each of these, and not once more."""
    return Roofline(HERE, place="cpu", measure=iter(measured).__next__)


@pytest.mark.parametrize(("queries", "keys", "causal"), [*product((1, 5, 8), (1, 5, 8), (True, False))])
def test_products_are_counted_over_keys_that_are_seen(queries: int, keys: int, causal: bool) -> None:
    seen = torch.ones(queries, keys).tril(keys - queries) if causal else torch.ones(queries, keys)
    one = shape(heads=(4, 2), lengths=(queries, keys), causal=causal, batch=3)
    exact = 4.0 * 3 * 4 * float(seen.sum()) * 64
    assert least_flops(one) == min(exact, one.flops)


def test_bytes_are_those_that_have_to_be_moved() -> None:
    row = 64 * 4
    assert least_bytes(shape(heads=(4, 2), lengths=(48, 80)), "cpu") == LIKE_ALL == row * (2 * 2 * 80 + 2 * 4 * 48)
    assert least_bytes(shape(heads=(4, 2), lengths=(48, 80)), "cuda") == row * (2 * 2 * 80 + 4 * 48)
    blind = shape(heads=(4, 2), lengths=(80, 48))
    assert least_bytes(blind, "cpu") == row * (2 * 2 * 48 + 4 * 48 + 4 * 80), "half of the queries see no key"


LIKE_ALL = float(shape(heads=(4, 2), lengths=(48, 80)).bytes_moved)


def test_exact_products_may_be_made_of_narrow_ones() -> None:
    assert matrix_rate("f16", RATES) == matrix_rate("bf16", RATES) == 6e12
    assert matrix_rate("f32", RATES) == 2e12
    assert matrix_rate("f32", Rates(HERE, {"f32": 1e12, "bf16": 1e9, "f16": 1e9}, 1e11)) == 1e12


@pytest.mark.parametrize(("of", "seconds", "why"), [(LONG, LONG.flops / 2e12, "TFLOP"), (DECODE, None, "GB/s")])
def test_the_slower_of_the_two_is_the_bound(of: Shape, seconds: float | None, why: str) -> None:
    found = bound(of, RATES, "cpu")
    assert found.seconds == pytest.approx(seconds or DECODE.bytes_moved / 1e11)
    assert why in found.why


def test_a_time_is_shown_beside_what_the_device_can_do_and_believed_within_a_margin() -> None:
    least_s = bound(LONG, RATES, "cpu").seconds
    line = roofline(RATES)
    for seconds in (least_s, 0.51 * least_s):
        timing = line.bounded(LONG, timed(seconds))
        assert timing.least_s == least_s
        assert line.fault(LONG, timing) == ""


def test_a_time_that_is_none_is_a_fault_once_the_device_was_measured_again() -> None:
    least_s = bound(LONG, RATES, "cpu").seconds
    line = roofline(RATES, RATES)
    found = line.fault(LONG, timed(0.4 * least_s))
    assert found == (
        f"took {0.4 * least_s * 1e6:.3g} us a call, for which this device needs {least_s * 1e6:.3g} us: "
        "it multiplies 2 TFLOP/s"
    )


def test_a_device_that_was_busy_when_it_was_measured_is_no_kernels_fault() -> None:
    busy = Rates(HERE, {"f32": 1e10, "bf16": 1e10, "f16": 1e10}, 1e9)
    line = roofline(busy, RATES)
    honest = timed(1.5 * bound(LONG, RATES, "cpu").seconds)
    assert line.fault(LONG, honest) == ""
    assert roofline().fault(LONG, honest) == "", "what was seen then is kept"
