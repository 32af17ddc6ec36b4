"""What a client needs is looked at before any call, and one whose call was not given up serves the next."""

from __future__ import annotations

import pytest

from pytest_avo.operators.model.chat import EndpointUnavailable
from pytest_avo.operators.model.clients import Clients, Endpoint


def test_a_client_serves_one_call_at_a_time_and_the_next_when_that_has_ended() -> None:
    clients = Clients(Endpoint(model="m", base_url="http://127.0.0.1:1/v1"))
    first, beside = clients.take(), clients.take()
    assert first is not beside
    clients.give_back(first)
    assert clients.take() is first
    beside.close()


def test_no_key_and_no_server_is_an_error_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointUnavailable, match="set OPENAI_API_KEY"):
        Clients(Endpoint(model="m"))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HTTPS_PROXY", "socks://user:secret@proxy:1080", "HTTPS_PROXY=socks://***@proxy:1080"),
        ("https_proxy", "proxy:port", "https_proxy=proxy:port"),
        ("SSL_CERT_FILE", "/nowhere/authorities.pem", "SSL_CERT_FILE=/nowhere/authorities.pem"),
    ],
)
def test_proxies_and_certificates_that_are_no_use_are_named_before_any_call(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EndpointUnavailable, match=r"^no connection can be made: \w+: ") as error:
        Clients(Endpoint(model="m", base_url="https://127.0.0.1:1/v1"))
    assert shown in str(error.value)
    assert "secret" not in str(error.value)
