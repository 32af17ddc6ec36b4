"""The loop of an evolution: generation after generation, on pytest's main thread, a candidate's shapes as items.

What is known is written to the lineage before anything is built on it, so that the run can be killed at any instant: a
resumed run takes every recorded evaluation as it is and goes on from there.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from functools import cached_property

import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.ranking import geomean_gain
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import judge_together
from pytest_avo.evolution import balance
from pytest_avo.evolution.campaign import Campaign, Plan
from pytest_avo.evolution.consultation import Consultation
from pytest_avo.evolution.decision import Decision, decide
from pytest_avo.evolution.settlement import Settlement
from pytest_avo.evolution.trials import Candidate, Trials
from pytest_avo.lineage.records import Attempt
from pytest_avo.operators.catalogue import load_operator
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, Proposal, VariationOperator
from pytest_avo.report import text
from pytest_avo.report.rows import ResultRow, result_row
from pytest_avo.report.terminal import ledger, lineage, terminal
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.session.items import KernelFile, KernelItem
from pytest_avo.session.modes.bench import Bench


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
        settings = self.settings
        return load_operator(settings.operator, settings.agent, folder=settings.store, doors=settings.doors)

    @property
    def campaign(self) -> Campaign:
        assert self._campaign is not None, "the loop opens it"
        return self._campaign

    @property
    def consultation(self) -> Consultation:
        assert self._consultation is not None, "the loop opens it"
        return self._consultation

    @cached_property
    def trials(self) -> Trials:
        """Where candidates are evaluated."""
        return Trials(self.bench, self.campaign, count=self.consultation.verified)

    @cached_property
    def settlement(self) -> Settlement:
        """Where candidates find their outcome."""
        return Settlement(self.bench, self.campaign, self.consultation, self.trials)

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
            session.testscollected = len(items) * (self.settings.generations * self.settings.population + 1)
            if self._seed(session, items):
                for generation in range(1, self.settings.generations + 1):
                    if not self._generation(session, file, generation):
                        break
                self._compare_with_seed()
                self._complete = True
        except InvalidInput as error:
            raise pytest.UsageError(str(error)) from None
        except OperatorStopped as stop:
            self.bench.warn(f"{self.operator.name} stopped: {stop}")
            if isinstance(stop, OperatorFailed):
                self.exit_status = pytest.ExitCode.INTERNAL_ERROR
        except EvaluatorError as error:
            self.bench.warn(f"the run stops: {error}")
            self.exit_status = pytest.ExitCode.INTERNAL_ERROR
        finally:
            # A resumed run that was complete already runs no item, and yet collected those of its seed.
            session.testscollected = max(len(items), len(self.bench.tally.rows))
        return True

    def _file(self, items: list[KernelItem]) -> KernelFile:
        files = {item.parent for item in items}
        if len(files) != 1:
            names = ", ".join(sorted(file.path.name for file in files)) or "none"
            raise InvalidInput(f"--avo-evolve: expected one kernel file, got {names}")
        file = files.pop()
        if reason := self.bench.why_not_here(file.kernel):
            raise InvalidInput(f"{file.path}: {reason}")
        device = self.bench.device_for(file.kernel)
        assert device is not None, "why_not_here says so first"
        self.bench.device = device
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
            population=self.settings.population,
            islands=self.settings.islands,
        )
        self._campaign = Campaign.resume(plan) if self.settings.resume else Campaign.begin(plan, file.kernel)
        if self.bench.spool is not None:
            run = self._campaign.run
            self.bench.spool.continue_run(f"{run.kernel} {run.id} {run.started} {run.seed}")
        self._consultation = Consultation(self.bench, self._campaign, self.operator, say=self.bench.say)
        word = "resuming" if self.settings.resume else "starting"
        run, size = self.campaign.run, text.counted(self.settings.generations, "generation")
        operator = self.operator.describe()
        self.bench.say(f"{word} run {run.id}: {plan.name}, {size}, seed {run.seed}, operator {operator}")
        if self.settings.without_model:
            self.bench.warn(self.settings.without_model)
        if self._consultation.is_budgeted:
            self.bench.say(self._consultation.ledger.preflight())

    def _seed(self, session: pytest.Session, items: list[KernelItem]) -> bool:
        """Evaluate the seed beside itself, which gives the noise floor; False when it is not even correct."""
        seed = self.campaign.view.attempts()[0]
        if self.campaign.floor is None:
            kernel = self.campaign.kernel(seed)
            candidate = Candidate(seed, kernel, kernel, items, self._started)
            self.trials.begin(candidate, floor=None)
            evaluations = self.trials.run(session, candidate)
            decision = decide(evaluations, self.campaign.plan.shapes, floor=0.0)
            if decision.gain is None:
                self.bench.say(f"the seed is no good, nothing to evolve from: {decision.ranking}: {decision.reason}")
                if self.campaign.view.outcome(seed.id) is None:  # else a run that ended here is resumed
                    self.settlement.dismiss(candidate, decision)
                return False
            self.campaign.measure_noise(seed, evaluations)
        floor = self.campaign.floor
        assert floor is not None
        self.bench.floor = floor
        self.bench.say(f"noise floor {floor:.2%}: a candidate must be faster by more than that, at 99% confidence")
        return True

    def _generation(self, session: pytest.Session, file: KernelFile, generation: int) -> bool:
        """One attempt of each member, from proposal to outcome; False when the operator has nothing left to try."""
        campaign, since = self.campaign, time.monotonic()
        exhausted, stopped = self._propose(generation, since=since)
        candidates = []
        for _, attempt in sorted(campaign.members(generation).items()):
            if campaign.view.outcome(attempt.id) is not None:
                continue
            assert attempt.parent is not None
            kernel, parent = campaign.kernel(attempt), campaign.kernel(campaign.view.attempt(attempt.parent))
            items = file.items(kernel, campaign.plan.shapes, label=campaign.prefix(attempt))
            candidates.append(Candidate(attempt, kernel, parent, items, since))
        self._try(session, candidates)
        if stopped is not None:
            raise stopped
        return not exhausted

    def _propose(self, generation: int, *, since: float) -> tuple[bool, OperatorStopped | None]:
        """Have all members of a generation proposed that are not recorded yet, and record them as they come.

        Returns whether a member had nothing left to try, and why the run must end after this generation, if it must.
        """
        campaign, known = self.campaign, self.campaign.members(generation)
        exhausted = False
        if len(known) == self.settings.population:
            return False, None
        missing = {member: x for member, x in campaign.parents(generation).items() if member not in known}
        try:
            for member, proposal in self.consultation.propose(generation, missing):
                if proposal is None:
                    if not exhausted:
                        self.bench.say(f"generation {generation}: {self.operator.name} has nothing left to try")
                    exhausted = True
                else:
                    self._record(proposal, generation=generation, member=member, parent=missing[member], since=since)
        except OperatorStopped as stop:
            return exhausted, stop
        return exhausted, None

    def _record(self, proposal: Proposal, *, generation: int, member: int, parent: Attempt, since: float) -> None:
        """Record a proposal; one that there is nothing to evaluate of is settled at once."""
        attempt, earlier = self.campaign.add(proposal, generation=generation, member=member, parent=parent)
        if proposal.failed:
            self.settlement.settle(attempt, "failed", Decision("same", proposal.failed), since=since)
        elif earlier is not None:
            reason = f"same program as generation {self.campaign.label(earlier)}"
            self.settlement.settle(attempt, "duplicate", Decision("same", reason), since=since)

    def _try(self, session: pytest.Session, candidates: list[Candidate]) -> None:
        """Screen all candidates of a generation at the same time, confirm those that look faster, promote what is."""
        campaign, hook = self.campaign, self.bench.config.hook
        for candidate in candidates:
            self.trials.begin(candidate, floor=self.bench.floor)
        promising = []
        for candidate in candidates:
            self.bench.say(f"generation {campaign.label(candidate.attempt)}: {candidate.attempt.hypothesis}")
            evaluations = self.trials.run(session, candidate)
            decision = decide(evaluations, campaign.plan.shapes, floor=self.bench.floor)
            if self.settlement.is_promising(decision):
                promising.append((candidate, decision))
            else:
                self.settlement.dismiss(candidate, decision)
        self.settlement.contest(promising)
        for candidate in candidates:
            known = {item.shape.id: item.evaluation for item in candidate.items if item.evaluation is not None}
            shapes = [item.shape for item in candidate.items if item.shape.id in known]
            hook.pytest_avo_generation_finish(
                config=self.bench.config,
                generation=candidate.attempt.generation,
                member=candidate.attempt.member,
                verdicts=judge_together(known, shapes, floor=self.bench.floor),
            )

    def _compare_with_seed(self) -> None:
        """The claimed total, measured: the best kernel beside the seed, in one interleaved comparison."""
        campaign = self.campaign
        seed, best = campaign.view.attempts()[0], campaign.incumbent
        if best.id == seed.id:
            return
        self.bench.say("comparing the best kernel with the seed")
        evaluations = self.trials.compare(campaign.kernel(best), campaign.kernel(seed))
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

    # ---- what is shown

    def table(self) -> Iterator[Line]:
        """The best kernel's shapes and the lineage, at the end of the run, complete or not."""
        if self._campaign is None:
            return
        label = f"::{self.campaign.prefix(self.campaign.incumbent)}"
        best = self._final or [row for row in self.bench.tally.rows if label in row.node_id]
        yield from terminal.results(best, verbosity=self.bench.config.get_verbosity())
        wall_s = time.monotonic() - self._started
        summary = balance.summary(
            self.campaign,
            wall_s=self.consultation.ledger.snapshot().wall_s,
            resume_hint="" if self._complete else self._resume_command(),
        )
        yield from lineage.lineage(balance.attempt_rows(self.campaign), summary)
        yield from ledger.workers(self.bench.work(), wall_s=wall_s)
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
