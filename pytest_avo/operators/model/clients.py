"""Clients of the openai package for one endpoint. Only this module and `client` import it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import openai

from pytest_avo.operators.model.chat import EndpointUnavailable
from pytest_avo.operators.model.redaction import Redactor

_CONNECT_TIMEOUT_S = 15.0
_SURROUNDINGS = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE")
"""Variables, in either case, that httpx reads: what they set wrong looks like a fault of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model and how to reach it; without `base_url` openai's own default holds."""

    model: str
    base_url: str | None = None
    timeout_s: float = 600.0
    max_retries: int = 2
    seed: int | None = None


class Clients:
    """Clients, each for one call at a time: a call is given up by closing what its client has open.

    A client whose call has ended waits for the next one with nothing open: to make one takes 0.04 s of a processor, for
    it reads all certificates that the machine trusts. Safe to use from several threads.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Take the key from OPENAI_API_KEY; `EndpointUnavailable` for one that no header can carry.

        Without a key too, unless a `base_url` is given, and where the environment's proxies or certificates are no use.
        """
        key = os.environ.get("OPENAI_API_KEY")
        if not key and endpoint.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            raise EndpointUnavailable(
                "no key: set OPENAI_API_KEY in the environment, or point --avo-base-url at a server that needs none"
            )
        if key and not re.fullmatch(r"[!-~]+", key):
            raise EndpointUnavailable("OPENAI_API_KEY: expected printable ASCII without white space")
        self._endpoint = endpoint
        self._key = key or "not-needed"
        self._lock = threading.Lock()
        self._idle = [self._made()]

    def take(self) -> openai.OpenAI:
        """A client for one call: to be given back once it has ended, or closed to give it up."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._made()

    def give_back(self, client: openai.OpenAI) -> None:
        """Keep a client whose call has ended."""
        with self._lock:
            self._idle.append(client)

    def _made(self) -> openai.OpenAI:
        endpoint = self._endpoint
        connect_s = min(endpoint.timeout_s, _CONNECT_TIMEOUT_S)
        try:
            return openai.OpenAI(
                api_key=self._key,
                base_url=endpoint.base_url,
                max_retries=endpoint.max_retries,
                timeout=openai.Timeout(endpoint.timeout_s, connect=connect_s),
                # Calls are far apart: a server would have closed what was kept open just when it is used again.
                default_headers={"Connection": "close"},
            )
        except Exception as error:  # whatever httpx raises for what it reads in the environment
            reason = f"no connection can be made: {type(error).__name__}: {error}; {surroundings(os.environ)}"
            raise EndpointUnavailable(Redactor.of_environment(os.environ).text(reason)) from None


def surroundings(environment: Mapping[str, str]) -> str:
    """The proxies and certificates that the environment sets for connections, without passwords; "" for none."""
    found = [
        f"{name}={re.sub(r'//[^/@]*@', '//***@', environment[name])}"
        for name in sorted(environment, key=str.upper)
        if name.upper() in _SURROUNDINGS and environment[name]
    ]
    return f"the environment sets {', '.join(found)}" if found else ""
