from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL
from pytest_avo.evaluation.judge import peers
from tests.evaluation.judge.desk import Desk
from tests.evaluation.laboratory import Laboratory


@pytest.fixture
def desk(confined: Laboratory) -> Iterator[Desk]:
    yield Desk(confined)
    for name in (KERNEL, BASELINE, peers.EMPTY, *peers.PEERS):
        confined.arms.drop(name)
