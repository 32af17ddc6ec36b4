from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.lineage.records import Run
from pytest_avo.lineage.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".avo" / "lineage.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


@pytest.fixture
def run(store: Store) -> Run:
    return store.start_run(
        kernel="kernels/cpu/quickstart.py",
        target="cpu",
        operator="tuner",
        seed=7,
        shapes=("b1-h8-q256-k256-d64-causal-f32", "b1-h8-q256-k256-d64-full-f32"),
        fingerprint=fingerprint(target="cpu", device="Some CPU", units=2),
        settings={"generations": "12"},
    )
