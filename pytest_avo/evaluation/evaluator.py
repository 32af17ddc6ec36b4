"""The seam between those who want kernels evaluated and those who do it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest

PREPARED = 2
"""Requests that a worker is told of while it answers another one: as many again may wait for other workers."""


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
    """Evaluates kernels. Thread-safe: items and agents call it at the same time."""

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        """Queue a request; one future per shape id, which raises EvaluatorError if the evaluator itself failed."""

    def doing(self) -> str:
        """What is being done at the moment, for a status line."""

    def news(self) -> list[str]:
        """What happened to workers since this was asked last: a line for each loss, refusal and return."""

    def work(self) -> list[Work]:
        """What each worker did so far."""

    def close(self) -> None:
        """End all processes. Futures not done by then raise EvaluatorError."""
