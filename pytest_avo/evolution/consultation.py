"""The consultation of an operator: asked on a thread of its own, as Ctrl-C must not wait for it, and given tools."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import source_digest
from pytest_avo.core.verdict import judge_together
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import screening
from pytest_avo.evolution.hooks import where
from pytest_avo.lineage.evaluated import DRAFT
from pytest_avo.lineage.events import Raced
from pytest_avo.lineage.records import Attempt, AttemptOutcome
from pytest_avo.operators.answer import checked
from pytest_avo.operators.budget import Budget, BudgetExhausted
from pytest_avo.operators.catalogue import entry
from pytest_avo.operators.directions import direction_of
from pytest_avo.operators.knowledge.comparison import compared, comparison, measured_ratios
from pytest_avo.operators.ledger import Ledger
from pytest_avo.operators.operator import (
    DraftResult,
    DraftsSpent,
    OperatorStopped,
    Proposal,
    Task,
    VariationOperator,
)
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.inspection import Inspection

Answers = queue.Queue[tuple[int, Proposal | BaseException | str | None]]
"""A member with its proposal, what it raised, or a line to show."""


class Consultation:
    """What stands between the loop and its operator during one run."""

    def __init__(
        self,
        assessor: Assessor,
        campaign: Campaign,
        operator: VariationOperator,
        console: Console,
        *,
        propose: Callable[[Task], Proposal | None],
    ) -> None:
        self.ledger = Ledger(assessor.settings.budget, assessor.settings.prices, spent=campaign.evaluated.spending())
        self._assessor = assessor
        self._settings = assessor.settings
        self._campaign = campaign
        self._operator = operator
        self._console = console
        self._propose = propose
        self._stopping = threading.Event()

    @property
    def is_budgeted(self) -> bool:
        """Whether there is something to spend: a model is asked, or the run is limited."""
        return entry(self._settings.operator).asks_model or self._settings.budget != Budget()

    def propose(self, generation: int, parents: Mapping[int, Attempt]) -> Iterator[tuple[int, Proposal | None]]:
        """The candidate of each member, given its parent, as they come; None where nothing is left to try.

        Blocks. All members are heard before an error of one of them is raised: InvalidInput and OperatorStopped as the
        operator raises them; all else that it raises: EvaluatorError.
        """
        if entry(self._settings.operator).answers_at_once:
            # From the lineage alone: there each must find what those before it proposed.
            rounds = [{member: parent} for member, parent in parents.items()]
        else:
            rounds = [dict(parents)]
        for asked in rounds:
            yield from self._ask(generation, asked)

    def _ask(self, generation: int, parents: Mapping[int, Attempt]) -> Iterator[tuple[int, Proposal | None]]:
        answers: Answers = queue.Queue()
        evaluations = self._to_verify * len(parents)
        for member, parent in parents.items():
            # What the operator says is printed here, since only the main thread writes to the terminal.
            task = self._task(generation, member, parent, say=partial(_tell, answers, member))
            asking = partial(self._answer, task, answers, evaluations)
            threading.Thread(target=asking, daemon=True, name=f"avo-propose-{generation}.{member}").start()
        errors: list[BaseException] = []
        waiting = len(parents)
        while waiting:
            try:
                member, answer = answers.get(timeout=0.25)
            except queue.Empty:
                self._console.tick(f"{self._operator.name} proposes generation {generation}")
                continue
            self._console.clear()
            if isinstance(answer, str):
                self._console.say(answer)
                continue
            waiting -= 1
            self._campaign.record(self.ledger.snapshot())
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                yield member, answer
        if errors:
            raise self._what_to_raise(errors, generation) from errors[0]

    def _answer(self, task: Task, answers: Answers, evaluations: int) -> None:
        """Ask the operator; on a thread of its own."""
        try:
            self.ledger.begin_attempt(evaluations=evaluations)
            answers.put((task.member, checked(self._propose(task))))
        except BaseException as error:
            answers.put((task.member, error))

    def _what_to_raise(self, errors: Sequence[BaseException], generation: int) -> Exception:
        """The gravest of several errors: one that the user must know before the run is continued comes first."""
        for error in errors:
            if isinstance(error, InvalidInput):
                return error
        for error in errors:
            if not isinstance(error, OperatorStopped | BudgetExhausted):
                reason = f"{type(error).__name__}: {error}{where(error)}"
                return EvaluatorError(f"the operator failed in generation {generation}: {reason}")
        stops = [error for error in errors if isinstance(error, OperatorStopped)]
        return stops[0] if stops else OperatorStopped(str(errors[0]))

    def verified(self, attempt: Attempt, evaluations: Collection[Evaluation]) -> None:
        """Count evaluations that verify a candidate; those of the seed are free, but for the time they took."""
        number = 0 if attempt.parent is None else len(evaluations)
        self.ledger.add_verifications(number, sum(each.seconds for each in evaluations))

    def settled(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """Compare what a finished attempt was predicted to gain with what it gained: later attempts learn from that."""
        stored = self._campaign.evaluated.of(attempt, "confirm") or self._campaign.evaluated.of(attempt, "screen")
        if found := compared(attempt.predicted, measured_ratios(outcome, stored)):
            self._campaign.record(comparison(attempt.id, found))
            right = sum(each.judgement == "right" for each in found)
            self._console.say(
                f"  {found[0]}" + (f" ({right} of {len(found)} predictions right)" if len(found) > 1 else "")
            )

    @property
    def _to_verify(self) -> int:
        """Evaluations that a candidate takes at most: every shape is screened, and confirmed.

        Where parents differ, it is also compared with the kernel in the file.
        """
        stages = 2 if self._campaign.plan.population == 1 else 3
        plan = self._campaign.plan
        return len(plan.screen) + (stages - 1) * len(plan.shapes)

    def _check_evaluations(self, wanted: int) -> None:
        """DraftsSpent where drafts would use up what verifying the candidate takes."""
        left = self.ledger.evaluations_left()
        set_aside = self._to_verify * self._campaign.plan.population
        if left is not None and left - set_aside < wanted:
            spare = max(0, left - set_aside)
            raise DraftsSpent(
                f"{spare} evaluations of drafts are left in this run, this needs {wanted}; those that verify your "
                "candidate are set aside: submit"
            )

    def close(self) -> None:
        """Tell an operator that is still at work to stop."""
        self._stopping.set()

    def _task(self, generation: int, member: int, parent: Attempt, *, say: Callable[[str], None]) -> Task:
        campaign, fingerprint = self._campaign, self._campaign.plan.fingerprint
        kernel = campaign.kernel(parent)
        inspection = Inspection(
            self._assessor,
            self.ledger,
            self._stopping,
            campaign.record,
            kernel=kernel,
            target=campaign.plan.target,
            shapes=campaign.plan.shapes,
            step=(generation, member),
        )
        return Task(
            kernel=kernel,
            parent=parent,
            generation=generation,
            member=member,
            shapes=campaign.plan.shapes,
            view=campaign.view,
            seed=campaign.run.seed,
            floor=self._campaign.floor,
            accept=self._settings.accept,
            device=fingerprint.words,
            folder=self._settings.store,
            evaluate=partial(self._evaluate, parent, kernel),
            race=partial(self._race, generation, member, kernel),
            compile_report=inspection.compile_report if inspection.has_compile_report else None,
            profile=inspection.profile,
            scratch=inspection.scratch,
            machine=inspection.machine,
            record=campaign.record,
            ledger=self.ledger,
            stopping=self._stopping,
            say=say,
            direction=direction_of(member, self._settings.directions),
        )

    def _evaluate(
        self, parent: Attempt, kernel: Kernel, source: str, shapes: Sequence[Shape], *, timed: bool
    ) -> Mapping[str, DraftResult]:
        """Evaluate a draft; see EvaluateDraft. Each shape is on disk when it is finished: a kill loses none of them."""
        if self._stopping.is_set():
            raise OperatorStopped("the run is ending")
        known = self._campaign.evaluated.draft(parent, source, timed=timed)
        if missing := tuple(shape for shape in shapes if shape.id not in known):
            self.ledger.check_time()
            self._check_evaluations(len(missing))
            settings = self._settings
            request = EvaluationRequest(
                number=0,
                subject=Subject(kernel.label, source),
                shapes=missing,
                limits=settings.limits,
                plan=screening(settings.plan, floor=self._campaign.floor) if timed else None,
                baseline=Subject(f"{kernel.label} (incumbent)", kernel.source) if timed else None,
                claim_alone=timed,  # what is asked beside it is to be had without a clock, and asked of a winner
                target=self._campaign.plan.target,
            )
            evaluator = self._assessor.evaluator_on(request.target)
            for shape, future in evaluator.submit(request).items():
                evaluation = known[shape] = future.result()
                self._campaign.store.add_evaluations(parent.id, DRAFT, [evaluation], source=source)
                self.ledger.add_evaluation(evaluation.seconds)
            self._campaign.record(self.ledger.snapshot())
        verdicts = judge_together(known, shapes, floor=self._campaign.floor)
        return {shape.id: DraftResult(known[shape.id], verdicts[shape.id]) for shape in shapes}

    def _race(
        self,
        generation: int,
        member: int,
        kernel: Kernel,
        source: str,
        shapes: Sequence[Shape],
        *,
        against: str,
        label: str,
        peer: str,
    ) -> Mapping[str, DraftResult]:
        """Time a draft beside another kernel; see RaceDraft. A kill loses the race, and counts none of it."""
        if self._stopping.is_set():
            raise OperatorStopped("the run is ending")
        self.ledger.check_time()
        self._check_evaluations(len(shapes))
        request = EvaluationRequest(
            number=0,
            subject=Subject(kernel.label, source),
            shapes=tuple(shapes),
            limits=self._settings.limits,
            plan=screening(self._settings.plan, floor=self._campaign.floor),
            baseline=Subject(f"{kernel.label} ({label})", against),
            peers=(peer,) if peer else (),
            target=self._campaign.plan.target,
        )
        futures = self._assessor.evaluator_on(request.target).submit(request)
        found = {shape: future.result() for shape, future in futures.items()}
        verdicts = judge_together(found, shapes, floor=self._campaign.floor)
        for evaluation in found.values():
            self.ledger.add_evaluation(evaluation.seconds)
        words = ", ".join(f"{verdict.shape} {verdict.kind}" for verdict in verdicts.values())
        seconds = sum(evaluation.seconds for evaluation in found.values())
        self._campaign.record(
            Raced(generation, member, source_digest(source), peer or label, len(found), seconds, text=words)
        )
        self._campaign.record(self.ledger.snapshot())
        return {shape.id: DraftResult(found[shape.id], verdicts[shape.id]) for shape in shapes}


def _tell(answers: Answers, member: int, text: str) -> None:
    answers.put((member, text))
