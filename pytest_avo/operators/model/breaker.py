"""The circuit breaker over calls of an endpoint, which ends a run whose model does not answer any more."""

from __future__ import annotations

import threading

from pytest_avo.operators.model.chat import ContextOverflow, EndpointUnavailable

RESUME_HINT = "everything finished is kept: continue with --avo-resume"


class Breaker:
    """Gives an endpoint up after so many failed calls in a row, whichever conversations they belong to."""

    def __init__(self, failures: int = 5) -> None:
        self._limit = failures
        self._failures = 0
        self._open_because: str | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise `EndpointUnavailable` if the endpoint is given up."""
        if self._open_because is not None:
            raise EndpointUnavailable(self._open_because)

    def succeeded(self) -> None:
        """Forget the failures before an answer."""
        with self._lock:
            self._failures = 0

    def failed(self, failure: Exception, endpoint: str) -> Exception:
        """Count a failure; returns it, or what is to be raised instead where it opens the breaker."""
        if isinstance(failure, ContextOverflow):
            return failure
        with self._lock:
            self._failures += 1
            if isinstance(failure, EndpointUnavailable):
                self._open_because = str(failure)
                return failure
            if self._failures < self._limit:
                return failure
            self._open_because = f"{endpoint} failed {self._failures} calls in a row, last: {failure}; {RESUME_HINT}"
            return EndpointUnavailable(self._open_because)
