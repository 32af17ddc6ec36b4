"""The loop of an evolution: its seed, generation after generation, and the best kernel beside the seed at the end.

What is known is written to the lineage before anything is built on it, so that the run can be killed at any instant: a
resumed run takes every recorded evaluation as it is and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Evaluations
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.ranking import LEAST_FLOOR, noise_floor
from pytest_avo.core.shape import Shape
from pytest_avo.core.signature import flaw
from pytest_avo.core.verdict import judge_together
from pytest_avo.evaluation.devices.device import DeviceKind
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.conclusion import final_rows
from pytest_avo.evolution.consultation import Consultation
from pytest_avo.evolution.decision import Decision, decide
from pytest_avo.evolution.hooks import Hooks
from pytest_avo.evolution.plan import Plan, conditions, matching
from pytest_avo.evolution.promotion import check_commit, check_place
from pytest_avo.evolution.settlement import Settlement
from pytest_avo.evolution.trials import Candidate, Trial, Trials
from pytest_avo.lineage.records import Attempt
from pytest_avo.operators.answer import storable
from pytest_avo.operators.catalogue import entry
from pytest_avo.operators.operator import OperatorStopped, Proposal, VariationOperator
from pytest_avo.report import text
from pytest_avo.report.rows import ResultRow
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings


def open_campaign(
    settings: Settings,
    kernel: Kernel,
    shapes: Sequence[Shape],
    device: DeviceKind,
    *,
    operator: VariationOperator,
    peers: tuple[str, ...],
) -> Campaign:
    """The campaign that the user asked for, begun or resumed; InvalidInput where it cannot be resumed."""
    plan = Plan(
        path=kernel.path,
        rootdir=settings.rootdir,
        folder=settings.store,
        shapes=tuple(shapes),
        target=device.target,
        fingerprint=device.fingerprint(),
        operator=operator.name,
        seed=settings.seed,
        generations=settings.generations,
        population=settings.population,
        islands=settings.islands,
        peers=peers,
        fixed=next(iter((*peers, *device.peers)), ""),
        transfer=settings.transfer,
        screened=matching(shapes, settings.screen),
        conditions=conditions(settings, operator),
    )
    if found := kernel.fault or flaw(kernel.source, kernel.claim):
        raise InvalidInput(f"{kernel.path}: {found}")
    check_place(kernel.path)
    entry(settings.operator).check_kernel(kernel)
    if settings.commit:
        check_commit(kernel.path)
    return Campaign.resume(plan) if settings.resume else Campaign.begin(plan, kernel)


class Loop:
    """Runs an evolution from its seed to its end."""

    def __init__(
        self,
        assessor: Assessor,
        campaign: Campaign,
        operator: VariationOperator,
        console: Console,
        hooks: Hooks,
        *,
        present: Callable[[Trial], None],
    ) -> None:
        """present: called with each screening before anything follows from it; what it raises ends the loop."""
        self.campaign = campaign
        self.consultation = Consultation(assessor, campaign, operator, console, propose=hooks.propose)
        self.trials = Trials(assessor, campaign, count=self.consultation.verified)
        self.is_untimed = False
        """The run ended at its seed, which is right, as the machine was too slow or too busy to time it."""
        self.final: list[ResultRow] = []
        """The best kernel beside the seed, as measured at the end; empty before, and where the seed is the best."""
        self._settlement = Settlement(
            assessor.settings,
            console,
            campaign,
            self.trials,
            promote=hooks.promote,
            settled=self.consultation.settled,
        )
        self._assessor = assessor
        self._settings = assessor.settings
        self._operator = operator
        self._console = console
        self._hooks = hooks
        self._present = present

    def run(self) -> None:
        """Run to the end: of the generations, of what the operator can try, or at a seed that is no good.

        OperatorStopped, EvaluatorError and InvalidInput end it earlier; it can be resumed then.
        """
        run = self.campaign.run
        self._assessor.continue_run(f"{run.kernel} {run.id} {run.started} {run.seed}")
        self._introduce()
        if self._seed():
            for generation in range(1, self._settings.generations + 1):
                if not self._generation(generation):
                    break
            self.final = final_rows(self.campaign, self.trials, say=self._console.say)

    def _introduce(self) -> None:
        campaign, console = self.campaign, self._console
        word = "resuming" if self._settings.resume else "starting"
        run, size = campaign.run, text.counted(self._settings.generations, "generation")
        operator = self._operator.describe()
        console.say(f"{word} run {run.id}: {campaign.plan.name}, {size}, seed {run.seed}, operator {operator}")
        if self._settings.without_model:
            console.warn(self._settings.without_model)
        if self.consultation.is_budgeted:
            console.say(self.consultation.ledger.preflight())

    def _seed(self) -> bool:
        """Evaluate the seed beside itself, which gives the noise floor; False when it is not even correct."""
        campaign = self.campaign
        if not campaign.has_floor:
            seed = campaign.view.attempts()[0]
            kernel = campaign.kernel(seed)
            candidate = Candidate(seed, kernel, kernel, time.monotonic())
            evaluations = self._shown(self.trials.screen(candidate, floor=None))
            decision = decide(evaluations, campaign.plan.shapes, floor=0.0)
            if decision.gain is None:
                self.is_untimed = decision.ranking == "ambiguous"
                if self.is_untimed:
                    advice = "a new run on a quieter machine, or with more seconds in --avo-limits time=, can"
                    self._console.warn(f"the seed cannot be timed: {decision.reason}; {advice}")
                else:
                    what = f"{decision.ranking}: {decision.reason}"
                    self._console.say(f"the seed is no good, nothing to evolve from: {what}")
                if campaign.view.outcome(seed.id) is None:  # else a run that ended here is resumed
                    self._settlement.dismiss(candidate, decision)
                return False
            comparisons = [evaluations]
            if noise_floor(evaluations, campaign.plan.shapes) > LEAST_FLOOR:
                # Chance shows once: what is left of it in new processes is this machine's.
                comparisons.append(self.trials.finish(self.trials.measure(candidate, "confirm", kernel, floor=None)))
            campaign.measure_noise(seed, comparisons)
        floor = f"noise floor {campaign.floor:.2%}"
        self._console.say(f"{floor}: a candidate must be faster by more than that, at 99% confidence")
        return True

    def _generation(self, generation: int) -> bool:
        """One attempt of each member, from proposal to outcome; False when the operator has nothing left to try."""
        campaign, since = self.campaign, time.monotonic()
        screenings = dict[int, Trial]()
        self._screen(generation, screenings, since=since)  # of an interrupted run
        exhausted, stopped = self._propose(generation, screenings, since=since)
        self._try([trial for _, trial in sorted(screenings.items())])
        if screenings:
            campaign.record(self.consultation.ledger.snapshot())  # of a run that ends here and is resumed
        if stopped is not None:
            raise stopped
        return not exhausted

    def _screen(self, generation: int, screenings: dict[int, Trial], *, since: float) -> None:
        """Begin to screen those members of a generation that are recorded and wait for it, by member."""
        campaign = self.campaign
        for member, attempt in campaign.members(generation).items():
            if member in screenings or campaign.view.outcome(attempt.id) is not None:
                continue
            assert attempt.parent is not None
            kernel, parent = campaign.kernel(attempt), campaign.kernel(campaign.view.attempt(attempt.parent))
            candidate = Candidate(attempt, kernel, parent, since)
            screenings[member] = self.trials.screen(candidate, floor=campaign.floor)

    def _propose(
        self, generation: int, screenings: dict[int, Trial], *, since: float
    ) -> tuple[bool, OperatorStopped | None]:
        """Have all members of a generation proposed that are not recorded yet, record and screen them as they come.

        Returns whether a member had nothing left to try, and why the run must end after this generation, if it must.
        """
        campaign, known = self.campaign, self.campaign.members(generation)
        exhausted = False
        if len(known) == self._settings.population:
            return False, None
        missing = {member: x for member, x in campaign.parents(generation).items() if member not in known}
        try:
            for member, proposal in self.consultation.propose(generation, missing):
                if proposal is None:
                    if not exhausted:
                        self._console.say(f"generation {generation}: {self._operator.name} has nothing left to try")
                    exhausted = True
                else:
                    self._record(proposal, generation=generation, member=member, parent=missing[member], since=since)
                    self._screen(generation, screenings, since=since)
        except OperatorStopped as stop:
            return exhausted, stop
        return exhausted, None

    def _record(self, proposal: Proposal, *, generation: int, member: int, parent: Attempt, since: float) -> None:
        """Record a proposal; one that there is nothing to evaluate of is settled at once."""
        proposal = storable(proposal)
        attempt, earlier = self.campaign.add(proposal, generation=generation, member=member, parent=parent)
        if proposal.failed:
            self._settlement.settle(attempt, "failed", Decision("same", proposal.failed), since=since)
        elif earlier is not None:
            reason = f"same program as generation {self.campaign.label(earlier)}"
            self._settlement.settle(attempt, "duplicate", Decision("same", reason), since=since)

    def _try(self, screenings: Sequence[Trial]) -> None:
        """Wait for the screenings of a generation, confirm those that look faster, promote what is."""
        campaign, floor = self.campaign, self.campaign.floor
        found: list[Evaluations] = []
        promising = []
        for screening in screenings:
            candidate = screening.candidate
            self._console.say(f"generation {campaign.label(candidate.attempt)}: {candidate.attempt.hypothesis}")
            found.append(self._shown(screening))
            decision = decide(found[-1], campaign.plan.screen, floor=floor)
            if self._settlement.is_promising(decision):
                promising.append((candidate, decision))
            else:
                self._settlement.dismiss(candidate, decision)
        self._settlement.contest(promising)
        for screening, evaluations in zip(screenings, found, strict=True):
            candidate = screening.candidate
            verdicts = judge_together(evaluations, campaign.plan.screen, floor=floor)
            self._hooks.finish(candidate.attempt.generation, candidate.attempt.member, verdicts)

    def _shown(self, trial: Trial) -> Evaluations:
        self._present(trial)
        return self.trials.finish(trial)

    def close(self) -> None:
        """Tell operators to stop and close the lineage."""
        self.consultation.close()
        self.campaign.close()
