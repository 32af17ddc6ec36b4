from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_httpserver import HTTPServer

from pytest_avo.operators.model.breaker import Breaker
from pytest_avo.operators.model.client import Exchange, OpenAIChat
from pytest_avo.operators.model.clients import Endpoint
from tests.operators.model.completions import KEY


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def chat(httpserver: HTTPServer) -> Callable[..., OpenAIChat]:
    def make(
        *,
        timeout_s: float = 180.0,
        max_retries: int = 0,
        breaker_failures: int = 3,
        seed: int | None = None,
        record: Callable[[Exchange], None] | None = None,
    ) -> OpenAIChat:
        endpoint = Endpoint(
            model="test-model",
            base_url=httpserver.url_for("/v1"),
            timeout_s=timeout_s,
            max_retries=max_retries,
            seed=seed,
        )
        return OpenAIChat(endpoint, breaker=Breaker(breaker_failures), record=record)

    return make
