"""The seam between those who want kernels evaluated and those who do it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest


class Evaluator(Protocol):
    """Evaluates kernels. Thread-safe: items and agents call it at the same time."""

    def submit(self, request: EvaluationRequest, *, urgent: bool = False) -> Mapping[str, Future[Evaluation]]:
        """Queue a request; one future per shape id, which raises EvaluatorError if the evaluator itself failed.

        urgent: before what is queued already.
        """

    def doing(self) -> str:
        """What is being done at the moment, for a status line."""

    def sandbox(self) -> str:
        """How kernels are confined."""

    def close(self) -> None:
        """End all processes. Futures not done by then raise EvaluatorError."""
