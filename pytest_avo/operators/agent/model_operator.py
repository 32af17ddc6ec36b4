"""The base of operators that ask a model: the context of a step, and the supervisor's directions."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod

from pytest_avo.lineage.events import DirectionLeft, Directions, DirectionTaken
from pytest_avo.operators.agent import supervisor
from pytest_avo.operators.agent.context import Context
from pytest_avo.operators.agent.supervisor import Given, Review
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.model.chat import EndpointUnavailable, ModelCallError
from pytest_avo.operators.model.fence import Fence
from pytest_avo.operators.model.redaction import Redactor
from pytest_avo.operators.model.source import AnswerSource, RecordingEnds, StepAnswers
from pytest_avo.operators.operator import OperatorFailed, Proposal, Task
from pytest_avo.report import text

LONGEST_DIAGNOSIS = 400
"""Characters of it that the terminal shows; the lineage has all."""


class ModelOperator(ABC):
    """Asks a model for each candidate. Safe to use from several threads, one step on each."""

    name: str

    def __init__(self, settings: AgentSettings, source: AnswerSource) -> None:
        """InvalidInput for a folder of knowledge that cannot be read."""
        self.settings = settings
        self.source = source
        self._redactor = Redactor.of_environment(os.environ)
        self._memory: LessonMemory | None = None
        self._lock = threading.Lock()
        self.knowledge = KnowledgeBase.of_option(settings.knowledge) if settings.use_knowledge else None

    def describe(self) -> str:
        """Operator, model, and which parts are off."""
        settings = self.settings
        parts = {
            "supervisor": settings.use_supervisor,
            "knowledge": settings.use_knowledge,
            "memory": settings.use_memory,
        }
        off = [part for part, is_on in parts.items() if not is_on]
        return f"{self.name} ({self.source.describe()}{''.join(f', no {part}' for part in off)})"

    def propose(self, task: Task) -> Proposal | None:
        """One step; see VariationOperator."""
        answers = self.source.step(task)
        try:
            context = self._context(task)
            direction = self._direction(task, context, answers) if self.settings.use_supervisor else None
            proposal = self.vary(context, direction, answers)
            if direction is not None and (proposal.failed or not proposal.follows):
                task.record(DirectionLeft(direction.event, direction.index, task.generation, task.member))
        except EndpointUnavailable as error:
            raise OperatorFailed(str(error)) from error
        except RecordingEnds as end:
            proposal = Proposal(source=task.kernel.source, hypothesis="", failed=str(end))
        finally:
            answers.close()
        return proposal

    @abstractmethod
    def vary(self, context: Context, direction: Given | None, answers: StepAnswers) -> Proposal:
        """Make one candidate from what is known: what a subclass does in a step."""

    def _context(self, task: Task) -> Context:
        with self._lock:
            if self.settings.use_memory and self._memory is None:
                replay = self.source.replay
                self._memory = LessonMemory(task.view, replayed=replay.id if replay else None)
            fence = Fence.of_run(task, self._redactor)
        return Context(task, fence, self.settings, self.knowledge, self._memory)

    def _direction(self, task: Task, context: Context, answers: StepAnswers) -> Given | None:
        """What the supervisor wants this step to try, after a review where the search is stuck."""
        view, generation, member = task.view, task.generation, task.member
        with self._lock:
            chosen = supervisor.direction_for(view, generation=generation, member=member)
            if chosen is not None and chosen.taken_by is not None:
                return chosen
            if symptom := supervisor.symptom(view, self.settings):
                self._review(symptom, task, context, answers)
                chosen = supervisor.direction_for(view, generation=generation, member=member)
            if chosen is not None:
                task.record(DirectionTaken(chosen.event, chosen.index, generation, member))
                task.say(f"  direction: {chosen.direction.title}")
            return chosen

    def _review(self, symptom: str, task: Task, context: Context, answers: StepAnswers) -> None:
        task.say(f"supervisor: {symptom}; reviewing the search")
        messages = answers.opening("supervisor") or context.review(symptom)
        try:
            tried = [each.direction.title for each in supervisor.given(task.view) if each.taken_by is not None]
            chat, count = answers.chat("supervisor"), self.settings.directions
            found = supervisor.review(chat, messages, count=count, tried=tried)
        except (ModelCallError, RecordingEnds) as error:
            task.say(f"supervisor: no review: {error}")
            found = None
        review = found or Review(directions=[])
        if review.diagnosis:
            task.say(f"supervisor: {text.clip(text.plain(review.diagnosis), LONGEST_DIAGNOSIS)}")
        titles = "; ".join(direction.title for direction in review.directions)
        task.say(f"supervisor: {text.counted(len(review.directions), 'direction')}{f': {titles}' if titles else ''}")
        task.record(Directions(task.generation, symptom, review.diagnosis, review.directions))
