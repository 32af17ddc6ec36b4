"""The seam between those who want kernels evaluated (items, evolutions, operators) and who does it.

`pool.Pool` evaluates on workers that execnet reaches, `spool.SpoolClient` by way of files in a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest

PREPARED = 2
"""How many of the requests that wait a worker is told of while it answers another one, to prepare for them."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker did."""

    worker: str
    host: str
    """Empty for one that was never reached."""
    device: str
    evaluations: int
    """Shapes answered."""
    busy_s: float
    fate: str
    """Why it is not there any more; empty while it is."""


class Evaluator(Protocol):
    """Evaluates kernels. Thread-safe: items and operators call it at the same time. No call but `close` blocks."""

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        """Queue a request; shape id -> future of its evaluation, in the order of the request's shapes.

        Whatever the kernel does is an outcome of its evaluation. A future raises EvaluatorError if the evaluator itself
        failed: no device, a worker lost, an evaluator that is closed.
        """

    def doing(self) -> str:
        """What is being done at the moment, in a few words for a status line; "" where nothing is."""

    def news(self) -> list[str]:
        """What happened to workers since the last call: a line for each loss, refusal and return."""

    def work(self) -> list[Work]:
        """What each worker did so far, lost ones included."""

    def close(self) -> None:
        """End all processes that this one started. Futures not done by then raise EvaluatorError."""
