"""A plugin for runs inside tests (`-p tests.plugin.metered_pool`): a real worker, whose clock goes by kernels' sources.

Kernels are built, checked and timed by the worker of `warm_pool`. What their rounds took is replaced by what
`scripted_pool` reads off the sources, so that no verdict hangs on how busy the machine is.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from msgspec.structs import replace

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Timing
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.run import assessors
from tests.plugin.scripted_pool import timing_of
from tests.plugin.warm_pool import WarmPool


def metered(evaluation: Evaluation, request: EvaluationRequest) -> Evaluation:
    """The same with other seconds, of the arms that were timed."""
    timing = evaluation.timing
    if timing is None or request.plan is None:
        return evaluation
    said = timing_of(request, request.plan).seconds
    seconds = {arm: said[arm] for arm in timing.seconds}
    return replace(evaluation, timing=Timing(seconds, calls=timing.calls, stopped=timing.stopped))


class MeteredPool(WarmPool):
    """In the place of a run's own pool."""

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        return {shape: _metered(future, request) for shape, future in super().submit(request).items()}


def _metered(future: Future[Evaluation], request: EvaluationRequest) -> Future[Evaluation]:
    later: Future[Evaluation] = Future()

    def hand_on(done: Future[Evaluation]) -> None:
        error = done.exception()
        if error is not None:
            later.set_exception(error)
        else:
            later.set_result(metered(done.result(), request))

    future.add_done_callback(hand_on)
    return later


def pytest_configure() -> None:
    assessors.Pool = MeteredPool  # type: ignore[assignment, attr-defined]


def pytest_unconfigure() -> None:
    assessors.Pool = Pool  # type: ignore[attr-defined]
