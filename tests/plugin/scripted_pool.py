"""A plugin for runs inside tests (`-p tests.plugin.scripted_pool`): results are read off a kernel's source, at once.

What such a run proves is what becomes of results, not how they are measured: that takes processes and seconds, and has
tests of its own. A kernel takes REPEAT tenths of a millisecond, a peer half a millisecond.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from msgspec.structs import replace

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluation, EvaluationRequest, Timing, TimingPlan
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.run import assessors

PEER_S = 5e-4
EACH_S = "SCRIPTED_EACH_S"
"""Variable with the seconds that every shape takes, for tests that kill a run meanwhile."""
ONLY = "SCRIPTED_ONLY"
"""Variable with the number of shapes after which no more is answered, for tests that kill a run at that point."""
WRONG = re.compile(r"q \* \d|\* scale \* |\* 0\.01|return 2 \* ")
BREAKS = re.compile(r"^ +raise (\w+)", re.MULTILINE)


def seconds_of(source: str) -> float:
    """What a call takes."""
    found = re.search(r"^REPEAT = (\d+)", source, re.MULTILINE)
    return (int(found[1]) if found else 1) * 1e-4


def timing_of(request: EvaluationRequest, plan: TimingPlan) -> Timing:
    """Every round as it must be, but for a thousandth."""
    arms = {KERNEL: seconds_of(request.subject.source), **dict.fromkeys(request.peers, PEER_S)}
    if request.fixed:
        arms[FIXED] = PEER_S
    if request.baseline is not None:
        arms[BASELINE] = seconds_of(request.baseline.source)
    rounds = (1.0, 1.001, 0.999)
    samples = {
        arm: tuple(tuple(mean_s * x for x in rounds) for _ in range(plan.launches)) for arm, mean_s in arms.items()
    }
    return Timing(samples, calls=1, stopped="rounds")


def evaluation_of(request: EvaluationRequest, shape: Shape) -> Evaluation:
    """Zeros, another scale and what is raised fail as they would."""
    source = request.subject.source
    answer = Evaluation(shape.id, "ok", seed=1, worker="gw0", device="a device", build_s=0.1, check_s=0.1)
    if broken := BREAKS.search(source):
        return replace(answer, outcome="crashed", reason=f"{broken[1]}: ")
    if WRONG.search(source):
        reason = "max error 0.5 > limit 0.001 (heads from 0, rows from 0) (normal)"
        return replace(answer, outcome="incorrect", reason=reason)
    return answer if request.plan is None else replace(answer, time_s=0.1, timing=timing_of(request, request.plan))


class ScriptedPool:
    """In the place of the pool of workers."""

    layers: bool | None = None
    """Whether the last one was to confine kernels."""

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
        ScriptedPool.layers = layers
        self._spins = bool(spins)
        self._specs = specs
        self._count = 0

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        futures: dict[str, Future[Evaluation]] = {shape.id: Future() for shape in request.shapes}
        each_s = float(os.environ.get(EACH_S, "0"))
        if each_s:
            threading.Thread(target=self._answer, args=(request, futures, each_s), daemon=True).start()
        else:
            self._answer(request, futures, each_s)
        return futures

    def _answer(self, request: EvaluationRequest, futures: Mapping[str, Future[Evaluation]], each_s: float) -> None:
        for shape in request.shapes:
            time.sleep(each_s)
            if str(self._count) == os.environ.get(ONLY):
                return
            self._count += 1
            futures[shape.id].set_result(self._as_it_waits(evaluation_of(request, shape)))

    def _as_it_waits(self, found: Evaluation) -> Evaluation:
        return found if found.timing is None else replace(found, timing=replace(found.timing, spins=self._spins))

    def doing(self) -> str:
        return "idle"

    def news(self) -> list[str]:
        return []

    def work(self) -> list[Work]:
        names = [f"gw{number} ({spec})" for number, spec in enumerate(self._specs)]
        return [Work(name, "here", "cpu", self._count if name == names[0] else 0, 0.1, "") for name in names]

    def close(self) -> None: ...


def pytest_configure() -> None:
    assessors.Pool = ScriptedPool  # type: ignore[assignment, attr-defined]


def pytest_unconfigure() -> None:
    assessors.Pool = Pool  # type: ignore[attr-defined]
