"""A spool of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from tests.evaluation.spool.desk import KIND, Clerk


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    spool = SpoolFolder(tmp_path / "spool")
    spool.make()
    return spool


@pytest.fixture
def clerk(tmp_path: Path) -> Clerk:
    (tmp_path / "log").touch()
    return Clerk(tmp_path / "log")


@pytest.fixture
def connect(folder: SpoolFolder) -> Iterator[Callable[..., SpoolClient]]:
    """Start a client of the run of that name, as a process of that run does."""
    clients: list[SpoolClient] = []

    def start(run: str = "run 1") -> SpoolClient:
        client = SpoolClient(folder, KIND, lease_s=0.4)
        client.continue_run(run)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()
