"""The noise floor: what it is made of, and that only a machine with the same fingerprint is given it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.noise import noise_of, noise_path, store_noise, stored_noise
from pytest_avo.core.ranking import LEAST_FLOOR

HERE = Fingerprint("cpu", "a processor", 2, "", "2.13.0", "3.6.0", "3.11.7", "Linux 6.18")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-avo"


def aa(seed: int, *, within: float, between: float = 0.0) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [[float(x) for x in random.normal(random.normal(0, between), within, 10)] for _ in range(3)]


def test_the_floor_grows_with_noise_within_and_between_processes() -> None:
    quiet = noise_of([aa(i, within=0.001) for i in range(8)], HERE)
    noisy = noise_of([aa(i, within=0.03) for i in range(8)], HERE)
    restless = noise_of([aa(i, within=0.001, between=0.03) for i in range(8)], HERE)
    assert quiet.floor == LEAST_FLOOR
    # Thirty rounds of deviation 3%: the median errs by about 0.03 * 1.25 / sqrt(30), twice that and what it was off.
    assert 0.012 < noisy.floor < 0.03
    assert restless.floor > 0.03
    assert noisy.comparisons == 8


def test_a_bias_counts_as_noise() -> None:
    assert noise_of([[[0.02] * 10] * 3], HERE).floor == pytest.approx(0.04)


def test_no_comparison_makes_no_floor() -> None:
    with pytest.raises(ValueError, match="at least one comparison"):
        noise_of([], HERE)


def test_a_floor_is_found_by_the_same_fingerprint_alone(cache: Path) -> None:
    assert stored_noise(HERE) is None
    noise = noise_of([aa(1, within=0.03)], HERE)
    assert store_noise(noise) == noise_path(HERE)
    assert stored_noise(HERE) == noise
    assert stored_noise(msgspec.structs.replace(HERE, torch="2.14.0")) is None
    assert [path.name for path in cache.iterdir()] == [f"noise-{HERE.digest}.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"floor": -1}'])
def test_a_torn_file_is_as_good_as_none(content: bytes) -> None:
    noise_path(HERE).write_bytes(content)
    assert stored_noise(HERE) is None


def test_a_floor_that_is_no_number_is_not_believed() -> None:
    store_noise(msgspec.structs.replace(noise_of([aa(1, within=0.03)], HERE), floor=-0.01))
    assert stored_noise(HERE) is None
