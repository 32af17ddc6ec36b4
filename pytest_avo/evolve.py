"""The loop of an evolution: generation after generation, on pytest's main thread, a candidate's shapes as items.

What is known is written to the lineage before anything is built on it, so that the run can be killed at any instant: a
resumed run takes every recorded evaluation as it is and goes on from there.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec
import pytest

from pytest_avo.bench import Bench
from pytest_avo.consultation import Consultation
from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict
from pytest_avo.evolution import promotion
from pytest_avo.evolution.campaign import Campaign, Plan
from pytest_avo.evolution.decision import Decision, confirmation, decide, geomean_gain, screening
from pytest_avo.items import KernelFile, KernelItem
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Status
from pytest_avo.operators.catalogue import load_operator
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, VariationOperator
from pytest_avo.report import ledger, lineage, terminal
from pytest_avo.report.rows import ResultRow, result_row
from pytest_avo.report.terminal import Line


class Evolution:
    """An evolution in a pytest session."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.settings = bench.settings
        self._campaign: Campaign | None = None
        self._consultation: Consultation | None = None
        self._started = time.monotonic()
        self._complete = False
        self._final: list[ResultRow] = []
        self.exit_status: pytest.ExitCode | None = None
        """What the run ends with, where that is not for its tests to say."""

    @cached_property
    def operator(self) -> VariationOperator:
        """What proposes candidates."""
        return load_operator(self.settings.operator, self.settings.agent, folder=self.settings.store)

    @property
    def campaign(self) -> Campaign:
        assert self._campaign is not None, "the loop opens it"
        return self._campaign

    @property
    def consultation(self) -> Consultation:
        assert self._consultation is not None, "the loop opens it"
        return self._consultation

    # ---- the loop

    def run(self, session: pytest.Session) -> bool | None:
        """Run all generations; pytest's own loop runs instead when nothing is to be executed."""
        if session.config.option.collectonly:
            return None
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        items = [item for item in session.items if isinstance(item, KernelItem)]
        try:
            file = self._file(items)
            self._open(file, tuple(item.shape for item in items))
            session.testscollected = len(items) * (self.settings.generations + 1)
            if self._seed(session, items):
                for generation in range(1, self.settings.generations + 1):
                    if not self._generation(session, file, generation):
                        break
                self._compare_with_seed()
                self._complete = True
        except InvalidInput as error:
            raise pytest.UsageError(str(error)) from None
        except OperatorStopped as stop:
            self._say(f"{self.operator.name} stopped: {stop}")
            if isinstance(stop, OperatorFailed):
                self.exit_status = pytest.ExitCode.INTERNAL_ERROR
        except EvaluatorError as error:
            self._say(f"the run stops: {error}", red=True)
            self.exit_status = pytest.ExitCode.INTERNAL_ERROR
        finally:
            # A resumed run that was complete already runs no item, and yet collected those of its seed.
            session.testscollected = max(len(items), len(self.bench.rows))
        return True

    def _file(self, items: list[KernelItem]) -> KernelFile:
        files = {item.parent for item in items}
        if len(files) != 1:
            names = ", ".join(sorted(file.path.name for file in files)) or "none"
            raise InvalidInput(f"--avo-evolve: expected one kernel file, got {names}")
        file = files.pop()
        if reason := self.bench.why_not_here(file.kernel):
            raise InvalidInput(f"{file.path}: {reason}")
        return file

    def _open(self, file: KernelFile, shapes: tuple[Shape, ...]) -> None:
        plan = Plan(
            path=file.path,
            rootdir=self.settings.rootdir,
            folder=self.settings.store,
            shapes=shapes,
            target=self.bench.device.target,
            fingerprint=self.bench.device.fingerprint(),
            operator=self.operator.name,
            seed=self.settings.seed,
            generations=self.settings.generations,
        )
        self._campaign = Campaign.resume(plan) if self.settings.resume else Campaign.begin(plan, file.kernel)
        self._consultation = Consultation(self.bench, self._campaign, self.operator, say=self._say)
        word = "resuming" if self.settings.resume else "starting"
        run = self.campaign.run
        self._say(f"{word} run {run.id}: {plan.name}, {self.settings.generations} generations, seed {run.seed}, "
                  f"operator {self.operator.describe()}")  # fmt: skip
        if self._consultation.is_budgeted:
            self._say(self._consultation.ledger.preflight())

    def _seed(self, session: pytest.Session, items: list[KernelItem]) -> bool:
        """Evaluate the seed beside itself, which gives the noise floor; False when it is not even correct."""
        seed = self.campaign.view.attempts()[0]
        if self.campaign.floor is None:
            kernel = self.campaign.kernel(seed)
            plan = screening(self.settings.plan, floor=None)
            evaluations = self._items_run(session, items, seed, kernel=kernel, baseline=kernel, plan=plan)
            decision = decide(evaluations, self.campaign.plan.shapes, floor=0.0)
            if decision.gain is None:
                self._say(f"the seed is no good, nothing to evolve from: {decision.ranking}: {decision.reason}")
                self._settle(seed, _status(decision), decision, since=self._started)
                return False
            self.campaign.measure_noise(seed, evaluations)
        floor = self.campaign.floor
        assert floor is not None
        self.bench.floor = floor
        self._say(f"noise floor {floor:.2%}: a candidate must be faster by more than that, at 99% confidence")
        return True

    def _generation(self, session: pytest.Session, file: KernelFile, generation: int) -> bool:
        """One attempt, from proposal to outcome; False when the operator has nothing left to try."""
        campaign, since = self.campaign, time.monotonic()
        if any(x.generation == generation and campaign.view.outcome(x.id) for x in campaign.view.attempts()):
            return True  # settled before the run was resumed
        attempt = campaign.unfinished(generation)
        if attempt is None:
            proposal = self.consultation.propose(generation)
            if proposal is None:
                self._say(f"generation {generation}: {self.operator.name} has nothing left to try")
                return False
            attempt, earlier = campaign.add(proposal, generation=generation)
            if proposal.failed:
                self._settle(attempt, "failed", Decision("same", proposal.failed), since=since)
                return True
            if earlier is not None:
                reason = f"same program as generation {earlier.generation}"
                self._settle(attempt, "duplicate", Decision("same", reason), since=since)
                return True
        self._say(f"generation {generation}: {attempt.hypothesis}")
        verdicts = self._try(session, file, attempt, since=since)
        self.bench.config.hook.pytest_avo_generation_finish(
            config=self.bench.config, generation=generation, verdicts=verdicts
        )
        return True

    def _try(
        self, session: pytest.Session, file: KernelFile, attempt: Attempt, *, since: float
    ) -> Mapping[str, Verdict]:
        """Screen a candidate, confirm it if it looks faster, promote it if it is."""
        campaign, floor = self.campaign, self.bench.floor
        assert attempt.parent is not None
        kernel, parent = campaign.kernel(attempt), campaign.kernel(campaign.view.attempt(attempt.parent))
        items = file.items(kernel, campaign.plan.shapes, label=f"gen{attempt.generation:04d}-")
        plan = screening(self.settings.plan, floor=floor)
        evaluations = self._items_run(session, items, attempt, kernel=kernel, baseline=parent, plan=plan)
        decision = decide(evaluations, campaign.plan.shapes, floor=floor)
        verdicts = {item.shape.id: item.verdict for item in items if item.verdict is not None}
        if decision.gain is None or not self._is_worth_confirming(decision):
            self._settle(attempt, _status(decision), decision, since=since)
            return verdicts
        confirmed = self._confirm(attempt, kernel=kernel, parent=parent)
        hook = self.bench.config.hook
        if confirmed.gain is not None and hook.pytest_avo_promote(
            config=self.bench.config, attempt=attempt, confirmed=confirmed.gain, floor=floor
        ):
            self._promote(attempt, decision, confirmed.gain, since=since)
        elif confirmed.gain is not None:
            refused = msgspec.structs.replace(decision, reason="not confirmed in fresh processes")
            self._settle(attempt, "ambiguous", refused, confirmed=confirmed.gain, since=since)
        else:
            self._settle(attempt, _status(confirmed), confirmed, since=since)
        return verdicts

    def _is_worth_confirming(self, decision: Decision) -> bool:
        if self.settings.accept == "match":
            return decision.gain is not None and decision.gain.estimate >= 0
        return decision.ranking == "faster"

    def accepts(self, confirmed: Interval, floor: float) -> bool:
        """The built-in promotion rule."""
        return confirmed.estimate >= 0 if self.settings.accept == "match" else confirmed.low > floor

    def _confirm(self, attempt: Attempt, *, kernel: Kernel, parent: Kernel) -> Decision:
        """Measure a winner once more, in fresh processes on fresh inputs: only this estimate is believed."""
        campaign = self.campaign
        evaluations = campaign.stored(attempt, "confirm")
        if not evaluations:
            plan = confirmation(self.settings.plan)
            evaluations = self._evaluate(kernel, parent, plan, fresh=True, peers=())
            campaign.store.add_evaluations(attempt.id, "confirm", list(evaluations.values()))
            self._count(attempt, len(evaluations))
        return decide(evaluations, campaign.plan.shapes, floor=self.bench.floor)

    def _promote(self, attempt: Attempt, decision: Decision, confirmed: Interval, *, since: float) -> None:
        """Write the winner into kernels/, then record that: killed in between, a resumed run does both again."""
        campaign, path = self.campaign, self.campaign.plan.path
        promotion.check_unchanged(path, {campaign.incumbent.digest, attempt.digest})
        outcome = AttemptOutcome(attempt.id, "promoted", gain=decision.gain, confirmed=confirmed)
        provenance = campaign.provenance(attempt, outcome)
        source = campaign.view.source(attempt.digest)
        promotion.promote(path, source, provenance, lock=self.settings.store / "promotion.lock")
        where = f"({provenance.over_seed:.2f}x the seed) now in {campaign.plan.name}"
        if self.settings.commit:
            where += f", commit {promotion.commit(path, provenance)}"
        self._settle(attempt, "promoted", Decision("faster", where, decision.gain), confirmed=confirmed, since=since)

    def _settle(
        self, attempt: Attempt, status: Status, decision: Decision, *, since: float, confirmed: Interval | None = None
    ) -> None:
        """Record an attempt's outcome, the last thing that is ever written about it, and say it."""
        seconds = time.monotonic() - since
        outcome = AttemptOutcome(
            attempt.id, status, decision.reason, gain=decision.gain, confirmed=confirmed, seconds=seconds
        )
        outcome = self.campaign.settle(outcome, attempt)
        parts = [f"generation {attempt.generation}: {status}"]
        if measured := confirmed or decision.gain:
            ratio = measured.exp()
            parts.append(f"{ratio.estimate:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]")
        self._say("  ".join([*parts, decision.reason]).rstrip(), green=status == "promoted")
        self.consultation.settled(attempt, outcome)

    def _compare_with_seed(self) -> None:
        """The claimed total, measured: the best kernel beside the seed, in one interleaved comparison."""
        campaign = self.campaign
        seed, best = campaign.view.attempts()[0], campaign.incumbent
        if best.id == seed.id:
            return
        self._say("comparing the best kernel with the seed")
        plan = confirmation(self.settings.plan)
        kernels = campaign.kernel(best), campaign.kernel(seed)
        evaluations = self._evaluate(*kernels, plan, fresh=True, peers=self.bench.peers)
        if all(evaluation.outcome == "ok" for evaluation in evaluations.values()):
            ratio = geomean_gain(evaluations, campaign.plan.shapes, confidence=0.95).exp()
            campaign.add_total(ratio)
        self._final = [
            result_row(
                evaluations[shape.id],
                self.bench.judge(evaluations[shape.id], shape),
                node_id=f"{campaign.plan.name}::{shape.id}",
                kernel=campaign.plan.name,
                target=campaign.plan.target,
                shape=shape,
            )
            for shape in campaign.plan.shapes
        ]

    # ---- evaluating and proposing

    def _items_run(
        self,
        session: pytest.Session,
        items: list[KernelItem],
        attempt: Attempt,
        *,
        kernel: Kernel,
        baseline: Kernel,
        plan: TimingPlan,
    ) -> dict[str, Evaluation]:
        """Run a candidate's items as pytest tests and record their evaluations, unless the lineage has them already."""
        stored = self.campaign.stored(attempt, "screen")
        if stored or kernel.fault:
            for item in items:
                item.evaluation = stored.get(item.shape.id)
        else:
            request = self._request(kernel, baseline, plan, fresh=False, peers=self.bench.peers)
            futures = self.bench.evaluator.submit(request)
            for item in items:
                item.pending = futures[item.shape.id]
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.bench.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        evaluations = {item.shape.id: item.evaluation for item in items if item.evaluation is not None}
        if len(evaluations) < len(items):
            raise EvaluatorError("some shapes could not be evaluated; what was finished is kept")
        if not stored:
            self.campaign.store.add_evaluations(attempt.id, "screen", list(evaluations.values()))
            self._count(attempt, len(evaluations))
        return evaluations

    def _evaluate(
        self, kernel: Kernel, baseline: Kernel, plan: TimingPlan | None, *, fresh: bool, peers: tuple[str, ...]
    ) -> dict[str, Evaluation]:
        request = self._request(kernel, baseline, plan, fresh=fresh, peers=peers)
        return {shape: self.bench.wait(future) for shape, future in self.bench.evaluator.submit(request).items()}

    def _count(self, attempt: Attempt, evaluations: int) -> None:
        if attempt.parent is not None:
            self.consultation.ledger.add_verifications(evaluations)

    def _request(
        self,
        kernel: Kernel,
        baseline: Kernel,
        plan: TimingPlan | None,
        *,
        fresh: bool,
        peers: tuple[str, ...],
    ) -> EvaluationRequest:
        name = self.campaign.plan.path.name
        return EvaluationRequest(
            number=0,
            subject=Subject(name, kernel.source),
            shapes=self.campaign.plan.shapes,
            limits=self.settings.limits,
            plan=plan,
            baseline=Subject(f"{name} (incumbent)", baseline.source),
            peers=peers,
            fresh=fresh,
        )

    # ---- what is shown

    def table(self) -> Iterator[Line]:
        """The best kernel's shapes and the lineage, at the end of the run, complete or not."""
        if self._campaign is None:
            return
        label = f"::gen{self.campaign.incumbent.generation:04d}-"
        best = self._final or [row for row in self.bench.rows if label in row.node_id]
        yield from terminal.results(best, verbosity=self.bench.config.get_verbosity())
        wall_s = time.monotonic() - self._started
        summary = self.campaign.summary(wall_s=wall_s, resume_hint="" if self._complete else self._resume_command())
        yield from lineage.lineage(self.campaign.rows(), summary)
        yield from ledger.workers(self.bench.evaluator.work(), wall_s=wall_s)
        if self.consultation.is_budgeted:
            yield from ledger.ledger(self.consultation.ledger.summary_rows())

    def _resume_command(self) -> str:
        """What continues this run: what the user typed, since model, suites and limits are among it."""
        typed = [os.fspath(argument) for argument in self.bench.config.invocation_params.args]
        return shlex.join(["pytest", *(each for each in typed if each != "--avo-resume"), "--avo-resume"])

    def close(self) -> None:
        """Tell operators to stop and close the lineage."""
        if self._consultation is not None:
            self._consultation.close()
        if self._campaign is not None:
            self._campaign.close()

    def _say(self, text: str, **markup: bool) -> None:
        self.bench.say(text, **markup)


def _status(decision: Decision) -> Status:
    """An attempt that was not promoted keeps what it was ranked as; one that looked faster was not confirmed."""
    return "ambiguous" if decision.ranking == "faster" else decision.ranking
