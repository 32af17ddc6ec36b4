"""A plugin for runs inside tests (`-p tests.plugin.warm_pool`): real evaluations, by a worker that outlives the run.

A worker and its fork server import torch, each for itself: that takes longer than most evaluations. What such a run
proves is what kernels and results come to; how workers start and end has tests of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import ClassVar

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.run import assessors


def started() -> Pool:
    """A pool of one worker of this machine, which is there when this returns."""
    pool = Pool(["popen"], kind=deal(0).fingerprint())
    pool.meet()
    return pool


class WarmPool:
    """In the place of a run's own pool: what it is asked is answered by the one that is kept."""

    kept: ClassVar[Pool]

    def __init__(
        self,
        specs: Sequence[str],
        *,
        layers: bool,
        first_device: int = 0,
        dealing: int = 1,
        kind: Fingerprint | None = None,
        spins: bool | None = None,
    ) -> None:
        assert (list(specs), layers, first_device, dealing) == (["popen"], True, 0, 1), "only it is kept"

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        return self.kept.submit(request)

    def doing(self) -> str:
        return self.kept.doing()

    def news(self) -> list[str]:
        return self.kept.news()

    def work(self) -> list[Work]:
        return self.kept.work()

    def close(self) -> None:
        """The next run has it."""


def pytest_configure() -> None:
    assessors.Pool = WarmPool  # type: ignore[assignment, attr-defined]


def pytest_unconfigure() -> None:
    assessors.Pool = Pool  # type: ignore[attr-defined]
