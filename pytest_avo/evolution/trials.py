"""Trials of an evolution: kernels beside others, as items and in fresh processes; each result is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import confirmation, screening
from pytest_avo.lineage.records import Attempt, Purpose
from pytest_avo.session.items import KernelItem
from pytest_avo.session.modes.bench import Bench

Count = Callable[[Attempt, Collection[Evaluation]], None]
"""Told of evaluations of an attempt that were made, and are on disk."""


@dataclass(slots=True)
class Candidate:
    """An attempt that is being tried."""

    attempt: Attempt
    kernel: Kernel
    parent: Kernel
    items: list[KernelItem]
    since: float
    """When its generation began, by time.monotonic()."""
    stored: Mapping[str, Evaluation] = field(default_factory=dict)
    """Of its screening, where an interrupted run had come so far."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate beside another kernel in fresh processes: under way, or in the lineage already."""

    candidate: Candidate
    purpose: Purpose
    stored: Mapping[str, Evaluation]
    pending: Mapping[str, Future[Evaluation]]


class Trials:
    """Puts kernels to the evaluator and records what came of it."""

    def __init__(self, bench: Bench, campaign: Campaign, *, count: Count) -> None:
        self.bench = bench
        self.campaign = campaign
        self._count = count

    def begin(self, candidate: Candidate, *, floor: float | None) -> None:
        """Have all shapes screened, beside the parent and the peers; their items wait for it."""
        candidate.stored = self.campaign.stored(candidate.attempt, "screen")
        if candidate.stored or candidate.kernel.fault:
            for item in candidate.items:
                item.evaluation = candidate.stored.get(item.shape.id)
            return
        plan = screening(self.bench.settings.plan, floor=floor)
        futures = self._submit(candidate.kernel, candidate.parent, plan, fresh=False, peers=self.bench.peers)
        for item in candidate.items:
            item.pending = futures[item.shape.id]

    def run(self, session: pytest.Session, candidate: Candidate) -> dict[str, Evaluation]:
        """Run a candidate's items as pytest tests and record their evaluations, unless the lineage has them already."""
        items = candidate.items
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.bench.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        evaluations = {item.shape.id: item.evaluation for item in items if item.evaluation is not None}
        if len(evaluations) < len(items):
            reasons = [item.lost for item in items if item.lost]
            raise EvaluatorError(reasons[0] if reasons else "some shapes could not be evaluated")
        if not candidate.stored:
            self._keep(candidate.attempt, "screen", evaluations)
        return evaluations

    def measure(self, candidate: Candidate, purpose: Purpose, beside: Kernel) -> Measurement:
        """Begin to time a candidate beside another kernel, in fresh processes and on fresh inputs."""
        stored = self.campaign.stored(candidate.attempt, purpose)
        plan = confirmation(self.bench.settings.plan)
        pending = {} if stored else self._submit(candidate.kernel, beside, plan, fresh=True, peers=())
        return Measurement(candidate, purpose, stored, pending)

    def finish(self, measurement: Measurement) -> Mapping[str, Evaluation]:
        """Wait for a measurement and record it."""
        if measurement.stored:
            return measurement.stored
        evaluations = {shape: self.bench.wait(future) for shape, future in measurement.pending.items()}
        self._keep(measurement.candidate.attempt, measurement.purpose, evaluations)
        return evaluations

    def compare(self, kernel: Kernel, beside: Kernel) -> dict[str, Evaluation]:
        """Time two kernels beside each other and the peers, in fresh processes; nothing is recorded."""
        plan = confirmation(self.bench.settings.plan)
        futures = self._submit(kernel, beside, plan, fresh=True, peers=self.bench.peers)
        return {shape: self.bench.wait(future) for shape, future in futures.items()}

    def _keep(self, attempt: Attempt, purpose: Purpose, evaluations: Mapping[str, Evaluation]) -> None:
        self.campaign.store.add_evaluations(attempt.id, purpose, list(evaluations.values()))
        self._count(attempt, evaluations.values())

    def _submit(
        self, kernel: Kernel, baseline: Kernel, plan: TimingPlan, *, fresh: bool, peers: tuple[str, ...]
    ) -> Mapping[str, Future[Evaluation]]:
        name = self.campaign.plan.path.name
        request = EvaluationRequest(
            number=0,
            subject=Subject(name, kernel.source),
            shapes=self.campaign.plan.shapes,
            limits=self.bench.settings.limits,
            plan=plan,
            baseline=Subject(f"{name} (incumbent)", baseline.source),
            peers=peers,
            fresh=fresh,
        )
        return self.bench.evaluator.submit(request)
