"""Trials of an evolution: kernels beside others, screened or in fresh processes; each result is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Evaluations, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import comparison, confirmation, screening
from pytest_avo.lineage.records import Attempt, Purpose
from pytest_avo.run.assessor import Assessor

OnEvaluated = Callable[[Attempt, Collection[Evaluation]], None]
"""Told of evaluations of an attempt that were made, and are on disk."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attempt that is being tried."""

    attempt: Attempt
    kernel: Kernel
    parent: Kernel
    since: float
    """When its generation began, by time.monotonic()."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate beside another kernel: under way, or in the lineage already."""

    candidate: Candidate
    purpose: Purpose
    stored: Evaluations
    """Evaluations by shape id that the lineage has: all of an interrupted run's trial that was finished, else none."""
    pending: Mapping[str, Future[Evaluation]]


class Trials:
    """Puts kernels to the evaluator and records what came of it."""

    def __init__(self, assessor: Assessor, campaign: Campaign, *, count: OnEvaluated) -> None:
        self._assessor = assessor
        self._campaign = campaign
        self._count = count

    def screen(self, candidate: Candidate, *, floor: float | None) -> Trial:
        """Begin to time a candidate beside its parent and a peer, until it is plainly faster or plainly not."""
        asked = self._campaign.plan
        # The seed is what all are measured by: it must be right on every shape, and is shown beside all peers.
        is_seed = candidate.attempt.parent is None
        shapes, peers = (asked.shapes, asked.peers) if is_seed else (asked.screen, asked.screened_beside)
        if fault := candidate.kernel.fault:
            return self._begin(candidate, "screen", lambda: {shape.id: _crashed(shape.id, fault) for shape in shapes})
        plan = screening(self._assessor.settings.plan, floor=floor)
        return self._begin(
            candidate,
            "screen",
            lambda: self._submit(
                candidate.kernel,
                candidate.parent,
                plan,
                shapes=shapes,
                fresh=False,
                peers=peers,
                is_asked_all=is_seed,  # so is what looks faster, when it is confirmed
            ),
        )

    def measure(self, candidate: Candidate, purpose: Purpose, beside: Kernel, *, floor: float | None) -> Trial:
        """Begin to time a candidate beside another kernel, in fresh processes and on fresh inputs.

        floor: what its gain must exceed, a log-ratio; None where there is no such question.
        """
        plan = confirmation(self._assessor.settings.plan, floor=floor)
        return self._begin(
            candidate,
            purpose,
            lambda: self._submit(
                candidate.kernel,
                beside,
                plan,
                shapes=self._campaign.plan.shapes,
                fresh=True,
                peers=(),
                is_asked_all=purpose == "confirm" and candidate.attempt.parent is not None,  # others were before
            ),
        )

    def evaluation(self, trial: Trial, shape: Shape) -> Evaluation:
        """What a trial finds on one shape; blocks. EvaluatorError when the machine fails."""
        if trial.stored:
            return trial.stored[shape.id]
        return self._assessor.wait(trial.pending[shape.id])

    def finish(self, trial: Trial) -> Evaluations:
        """Wait for a trial and record it; EvaluatorError when the machine fails."""
        if trial.stored:
            return trial.stored
        evaluations = {shape: self._assessor.wait(future) for shape, future in trial.pending.items()}
        attempt = trial.candidate.attempt
        self._campaign.store.add_evaluations(attempt.id, trial.purpose, list(evaluations.values()))
        self._count(attempt, evaluations.values())
        return evaluations

    def compare(self, kernel: Kernel, seed: Kernel) -> dict[str, Evaluation]:
        """Time a kernel beside the seed and the peers, in fresh processes; nothing is recorded."""
        plan, asked = comparison(self._assessor.settings.plan), self._campaign.plan
        # Called what it is: a resumed run is answered by what it asked before, and a child of the seed was confirmed
        # beside the same text.
        futures = self._submit(
            kernel, seed, plan, shapes=asked.shapes, fresh=True, peers=asked.peers, is_asked_all=False, role="seed"
        )
        return {shape: self._assessor.wait(future) for shape, future in futures.items()}

    def beside_peers(self, kernel: Kernel) -> dict[str, Evaluation]:
        """Time a kernel beside the peers alone; nothing is recorded."""
        plan, asked = comparison(self._assessor.settings.plan), self._campaign.plan
        futures = self._submit(
            kernel, None, plan, shapes=asked.shapes, fresh=True, peers=asked.peers, is_asked_all=False
        )
        return {shape: self._assessor.wait(future) for shape, future in futures.items()}

    def _begin(
        self, candidate: Candidate, purpose: Purpose, begin: Callable[[], Mapping[str, Future[Evaluation]]]
    ) -> Trial:
        stored = self._campaign.evaluated.of(candidate.attempt, purpose)
        return Trial(candidate, purpose, stored, {} if stored else begin())

    def _submit(
        self,
        kernel: Kernel,
        baseline: Kernel | None,
        plan: TimingPlan,
        *,
        shapes: tuple[Shape, ...],
        fresh: bool,
        peers: tuple[str, ...],
        is_asked_all: bool,
        role: str = "incumbent",
    ) -> Mapping[str, Future[Evaluation]]:
        asked = self._campaign.plan
        request = EvaluationRequest(
            number=0,
            subject=Subject(kernel.label, kernel.source),
            shapes=shapes,
            limits=self._assessor.settings.limits,
            plan=plan,
            baseline=None if baseline is None else Subject(f"{baseline.label} ({role})", baseline.source),
            peers=peers,
            fixed="" if peers else asked.fixed,
            fresh=fresh,
            claim_alone=not is_asked_all,
            brief=not is_asked_all,
            target=asked.target,
        )
        return self._assessor.evaluator_on(asked.target).submit(request)


def _crashed(shape: str, fault: str) -> Future[Evaluation]:
    """The evaluation of a kernel whose file cannot even be parsed."""
    future: Future[Evaluation] = Future()
    future.set_result(Evaluation(shape=shape, outcome="crashed", reason=fault))
    return future
