from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from pytest_avo.lineage.store import Store
from pytest_avo.operators.agent.agentic import AgenticOperator
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.model.source import AnswerSource
from tests.operators.model_server import ModelServer, Turn
from tests.operators.steps import World

KEY = "key-of-the-test-0123456789"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Store.open(tmp_path / ".avo" / "lineage.sqlite3") as store:
        yield World(store)


@pytest.fixture
def serve(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Turn]], ModelServer]:
    """Start a scripted model."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return lambda turns: ModelServer(httpserver, turns)


@pytest.fixture
def agent(world: World) -> Callable[..., AgenticOperator]:
    """Make the agentic operator for a scripted model."""

    def make(model: ModelServer, **chosen: Any) -> AgenticOperator:
        settings = AgentSettings(model="scripted", base_url=model.url, **chosen)
        source = AnswerSource.of(settings, operator="agent", folder=world.store.path.parent)
        return AgenticOperator(settings, source)

    return make
