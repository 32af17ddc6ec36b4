"""The model behind an OpenAI-compatible endpoint: one deadline per call, a circuit breaker over calls.

Retries are openai's own and there is no second layer: a call with its retries and their pauses ends at the deadline,
and after so many failed calls in a row the endpoint is given up.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import openai

from pytest_avo.operators.model.breaker import RESUME_HINT, Breaker
from pytest_avo.operators.model.chat import (
    CallTimedOut,
    ContextOverflow,
    EndpointFailed,
    EndpointUnavailable,
    InvalidAnswer,
    ModelCallError,
    RequestRejected,
    estimated_tokens,
    parsed_answer,
)
from pytest_avo.operators.model.clients import Clients, Endpoint, surroundings
from pytest_avo.operators.model.dialect import Dialect
from pytest_avo.operators.model.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_avo.operators.model.chat import Answer, Message, Tool

_LONGEST_MESSAGE = 500
# OpenAI, vLLM, llama.cpp and gateways name the overflow differently. A limit on the answer above the model's own is
# cured like one: by asking for less.
_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context (size|window|length)"
    r"|(prompt|input|request) is too long|too many (input )?tokens"
    r"|max_(completion_)?tokens\W.{0,60}(too large|at most|range|less than|maximum|exceed)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call as it goes into a transcript, secrets redacted: JSON-like request, and response or error."""

    request: object
    response: object | None
    error: str | None
    started_unix_s: float
    duration_s: float


class OpenAIChat:
    """A `ChatModel` over the openai package. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clients: Clients | None = None,
        breaker: Breaker | None = None,
        dialect: Dialect | None = None,
        record: Callable[[Exchange], None] | None = None,
    ) -> None:
        """`EndpointUnavailable` as of `Clients`, where those are not given.

        Conversations with one endpoint share its `clients`, a `breaker` and a `dialect`.
        """
        self.endpoint = endpoint
        self._record = record
        self._redactor = Redactor.of_environment(os.environ)
        self._breaker = breaker or Breaker()
        self._dialect = dialect or Dialect()
        self._clients = clients or Clients(endpoint)

    def complete(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), max_output_tokens: int) -> Answer:
        """The model's answer within the deadline; see `ChatModel`."""
        self._breaker.check()
        started_unix_s, started_s = time.time(), time.monotonic()
        client = self._clients.take()
        request = self._request(messages, tools)
        hosted = client.base_url.host.endswith("openai.com")
        fields = partial(
            self._dialect.fields, max_output_tokens=max_output_tokens, seed=self.endpoint.seed, hosted=hosted
        )
        response: object = None
        error: Exception | None = None
        try:
            response = self._within_deadline(client, request, fields)
            answer = parsed_answer(response, request_tokens=estimated_tokens(messages, tools))
        except (ModelCallError, EndpointUnavailable) as failure:
            error = self._breaker.failed(failure, self._name())
            if error is failure:
                raise
            raise error from failure
        else:
            self._breaker.succeeded()
            return answer
        finally:
            if self._record is not None and (response is not None or error is not None):
                self._record(
                    Exchange(
                        request=self._redactor.data(request | fields()),
                        response=self._redactor.data(response),
                        error=None if error is None else f"{type(error).__name__}: {error}",
                        started_unix_s=started_unix_s,
                        duration_s=time.monotonic() - started_s,
                    )
                )

    def _request(self, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.endpoint.model, "messages": [dict(each) for each in messages]}
        if tools:
            request["tools"] = [tool.wire() for tool in tools]
        return request

    def _within_deadline(
        self, client: openai.OpenAI, request: dict[str, Any], fields: Callable[[], dict[str, int]]
    ) -> object:
        """The decoded response. A thread makes the call, since no timeout of a socket bounds retries or a slow drip."""
        outcome: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()

        def call() -> None:
            while True:
                sent = request | fields()
                try:
                    outcome.put(client.chat.completions.with_raw_response.create(**sent).text)
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    if self._dialect.learns(str(error), sent):
                        continue
                    outcome.put(error)
                except Exception as error:
                    outcome.put(error)
                return

        try:
            threading.Thread(target=call, name="avo-model-call", daemon=True).start()
            result = outcome.get(timeout=self.endpoint.timeout_s)
        except BaseException as ending:
            client.close()
            if isinstance(ending, queue.Empty):
                name, limit_s = self.endpoint.model, self.endpoint.timeout_s
                raise CallTimedOut(f"no answer from {name} within {limit_s:g} s") from None
            raise
        self._clients.give_back(client)
        if isinstance(result, Exception):
            raise self._translated(result) from result
        try:
            return _whole(json.loads(result))
        except (ValueError, RecursionError) as error:
            shown = self._redactor.text(result[:200])
            raise InvalidAnswer(f"expected JSON, got {shown!r}") from error

    def _translated(self, error: Exception) -> Exception:
        # openai says "Connection error." and leaves the reason to the cause; a proxy may answer with a whole page.
        reason = ""
        if isinstance(error, openai.APIConnectionError):
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            if settings := surroundings(os.environ):
                reason = f"{reason}; {settings}"
        message = self._redactor.text(f"{error}{reason}")[:_LONGEST_MESSAGE]
        match error:
            case openai.APITimeoutError():
                return CallTimedOut(f"no answer from {self.endpoint.model}: {message}")
            case openai.APIStatusError(status_code=400 | 413 | 422) if _OVERFLOW.search(
                f"{error.code} {error.type} {message}"
            ):
                return ContextOverflow(message)
            case openai.AuthenticationError() | openai.PermissionDeniedError() | openai.NotFoundError():
                return EndpointUnavailable(
                    f"{self._name()} refuses the run: {message}; check --avo-model, --avo-base-url and "
                    f"OPENAI_API_KEY; {RESUME_HINT}"
                )
            case openai.RateLimitError(code="insufficient_quota"):
                return EndpointUnavailable(f"{self._name()}: the account's quota is used up; {RESUME_HINT}")
            case openai.APIStatusError(status_code=400 | 413 | 422):
                return RequestRejected(message)
            case _:
                return EndpointFailed(f"{type(error).__name__}: {message}")

    def _name(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.base_url or 'the default endpoint'}"


def _whole(value: Any) -> Any:
    """A decoded answer without halves of surrogate pairs: a character cut in two can neither be stored nor sent on."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case _:
            return value
