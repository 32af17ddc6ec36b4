"""The agentic operator: in one step the model reads, edits, evaluates and repairs until it submits one candidate."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_avo.lineage.records import GEOMEAN
from pytest_avo.operators.agent.compaction import compact
from pytest_avo.operators.agent.context import Context, start_of
from pytest_avo.operators.agent.model_operator import ModelOperator
from pytest_avo.operators.agent.supervisor import Given
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import BudgetExhausted
from pytest_avo.operators.model.chat import (
    Answer,
    ContextOverflow,
    Finish,
    Message,
    ModelCallError,
    RequestRejected,
    estimated_tokens,
)
from pytest_avo.operators.model.source import StepAnswers
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, Proposal
from pytest_avo.operators.tools.draft import Draft
from pytest_avo.operators.tools.draft_tools import DraftTools
from pytest_avo.operators.tools.lineage_tools import LineageTools, knowledge_specs
from pytest_avo.operators.tools.tools import Toolbox

JUNK_LIMIT = 3
"""Answers without a tool call, in a row, that end a step."""
OVERFLOW_LIMIT = 8
"""Requests in a row that are too long for the model, however much they are shortened."""
OUTPUT_TOKENS = 16_384
LEAST_OUTPUT_TOKENS = 2048
REMINDERS = (5, 2, 1)
"""Answers left at which the model is reminded to submit."""
CUT_OFF = (
    "The answer was cut off at its token limit: a call whose arguments are no valid JSON ended there, and more may be "
    "missing. Edit in small replacements, with fewer calls in one answer."
)
COMPACTED = 0.6
"""Share of the limit that a compacted conversation takes, so that the next one is far off."""


class AgenticOperator(ModelOperator):
    """A model with tools."""

    name = "agent"

    def vary(self, context: Context, direction: Given | None, answers: StepAnswers) -> Proposal:
        """One step of at most as many answers as the user allows."""
        return _Step(context, direction, answers).run()


class StepFailed(Exception):
    """The step ends without a submission; the message says why."""


class _Step:
    """One conversation with its draft and its tools."""

    def __init__(self, context: Context, direction: Given | None, answers: StepAnswers) -> None:
        self.context = context
        self.task = context.task
        self.settings: AgentSettings = context.settings
        self.answers = answers
        self.chat = answers.chat("step")
        self.draft = Draft(self.task, context.memory)
        if direction is not None and (start := start_of(context, direction)) is not None:
            self.draft.text = self.task.view.source(start.digest)
        with_memory = context.memory is not None
        self.lineage = LineageTools(self.task, context.memory)
        self.drafting = DraftTools(self.task, self.draft, with_memory=with_memory)
        knowledge = knowledge_specs(context.knowledge) if context.knowledge is not None else []
        self.tools = Toolbox([*self.lineage.specs(), *knowledge, *self.drafting.specs()], context.fence)
        self.messages: list[Message] = answers.opening("step") or context.step(direction)
        self.output_tokens = OUTPUT_TOKENS
        self.turn = 0

    def run(self) -> Proposal:
        """Answer after answer until one submits; what the step found so far is submitted where it cannot go on.

        OperatorStopped, EndpointUnavailable and BudgetExhausted as the run has to end.
        """
        try:
            self._converse()
        except StepFailed as failure:
            return self._best(str(failure))
        except BudgetExhausted as error:
            # What is paid for is not thrown away; but verifying it takes time, which must be left.
            if error.limit == "max_time" or self.draft.best() is None:
                raise
            return self._best(str(error))
        submission = self.drafting.submission
        assert submission is not None, "the conversation ends with one"
        proposal = self._proposal(submission.source, submission.hypothesis, submission.predicted)
        return replace(proposal, follows=submission.followed)

    def _converse(self) -> None:
        junk = 0
        while self.drafting.submission is None:
            if self.turn == self.settings.turns:
                raise StepFailed(f"no submission in {self.turn} answers")
            if self.task.stopping.is_set():
                raise OperatorStopped("the run is ending")
            answer = self._ask()
            self.turn += 1
            self.messages.append(answer.message())
            if not answer.tool_calls:
                junk += 1
                if junk == JUNK_LIMIT:
                    raise StepFailed(f"{junk} answers in a row without a tool call")
                self._tell(_what_was_wrong(answer))
                continue
            junk = 0
            self._carry_out(answer)
            if answer.finish is Finish.LENGTH:
                self._tell(CUT_OFF)
            if (left := self.settings.turns - self.turn) in REMINDERS:
                self._tell(f"{left} answers are left in this step: submit in time.")

    def _carry_out(self, answer: Answer) -> None:
        """Every call in order; those after a submission are not carried out, but each wants its answer."""
        for call in answer.tool_calls:
            if self.task.stopping.is_set():
                raise OperatorStopped("the run is ending")
            if self.drafting.submission is not None:
                text = "not carried out: the step ended with the submission"
            else:
                text = self.tools.handle(call)
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": text})

    def _ask(self) -> Answer:
        """The next answer. Failed calls are made again until one succeeds or the circuit breaker ends the run."""
        overflows = 0
        limit = self.settings.context_tokens
        if estimated_tokens(self.messages, self.tools.tools) > limit:
            self._compact(int(limit * COMPACTED))
        while True:
            try:
                return self.chat.complete(self.messages, tools=self.tools.tools, max_output_tokens=self.output_tokens)
            except ContextOverflow as error:
                overflows += 1
                if overflows == OVERFLOW_LIMIT:
                    raise StepFailed(f"the conversation does not fit into the model's context: {error}") from None
                self._shrink()
            except RequestRejected as error:
                if self.turn == 0:
                    raise OperatorFailed(f"the server refuses the request: {error}") from None
                raise StepFailed(f"the server refuses the request: {error}") from None
            except ModelCallError as error:
                self.task.say(f"  model: {error}; asking again")
            if self.task.stopping.is_set():
                raise OperatorStopped("the run is ending")

    def _shrink(self) -> None:
        """Make the next request smaller: first the room for the answer, which counts too, then the conversation."""
        if self.output_tokens > LEAST_OUTPUT_TOKENS:
            self.output_tokens //= 2
        else:
            self._compact(estimated_tokens(self.messages, self.tools.tools) // 2)

    def _compact(self, limit_tokens: int) -> None:
        self.messages = compact(
            self.messages,
            tools=self.tools.tools,
            limit_tokens=limit_tokens,
            fence=self.context.fence,
            draft=self.draft.text,
        )

    def _tell(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def _best(self, reason: str) -> Proposal:
        """The best draft of a step that ends by itself, or that it failed."""
        best = self.draft.best()
        if best is None:
            return self._proposal(self.draft.parent_text, "", {}, failed=reason)
        tried, gain = best
        hypothesis = f"the best draft of a step that ended early: {reason}"
        return self._proposal(tried.source, hypothesis, {GEOMEAN: math.exp(gain.estimate)})

    def _proposal(self, source: str, hypothesis: str, predicted: dict[str, float], *, failed: str = "") -> Proposal:
        return Proposal(
            source=source,
            hypothesis=hypothesis,
            predicted=predicted,
            tokens_in=self.answers.tokens_in,
            tokens_out=self.answers.tokens_out,
            cost=self.answers.cost,
            lesson=" ".join(self.lineage.lessons),
            failed=failed,
        )


def _what_was_wrong(answer: Answer) -> str:
    """What the model is told about an answer that called no tool."""
    if answer.finish is Finish.REFUSAL:
        return "You declined to answer. The task is to speed up a numerical kernel: go on with a tool call, or submit."
    if answer.finish is Finish.LENGTH:
        return (
            "The answer was cut off at its token limit before any tool was called. Think less before each call, and "
            "edit in small replacements."
        )
    if not answer.text.strip():
        return "The answer was empty. Call a tool; submit ends the step."
    return "No tool was called, so nothing was done. Act through the tools; submit ends the step."
