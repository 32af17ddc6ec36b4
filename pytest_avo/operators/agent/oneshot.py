"""The operator before agents: the same model and context, one answer, no tools. The ablation of the agentic one."""

from __future__ import annotations

import math
from typing import Any

from pytest_avo.lineage.records import GEOMEAN
from pytest_avo.operators.agent.context import Context
from pytest_avo.operators.agent.model_operator import ModelOperator
from pytest_avo.operators.agent.supervisor import Given
from pytest_avo.operators.model.chat import Answer, ContextOverflow, ModelCallError, RequestRejected
from pytest_avo.operators.model.reply import last_object, split_at_code
from pytest_avo.operators.model.source import StepAnswers
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, Proposal, Task

OUTPUT_TOKENS = 32_768


class OneshotOperator(ModelOperator):
    """A model that writes the whole candidate at once."""

    name = "oneshot"

    def vary(self, context: Context, direction: Given | None, answers: StepAnswers) -> Proposal:
        """One answer, read as a candidate; an answer that holds none is a failed step."""
        answer = _ask(context, direction, answers)
        parent = context.task.kernel.source
        before, source, after = split_at_code(answer.text, other_than=parent)
        if source is None:
            # Some servers hand all of an answer out as the model's reasoning.
            thoughts = "\n".join(each for each in answer.extra.values() if isinstance(each, str))
            before, source, after = split_at_code(thoughts, other_than=parent)
        # Not in the code: a literal there is no prediction.
        said = last_object(after) or last_object(before) or {}
        failed = "" if source is not None else f"no Python block in the answer ({answer.finish})"
        return Proposal(
            source=parent if source is None else source,
            hypothesis=" ".join(str(said.get("hypothesis", "")).split()),
            predicted=_predicted(said.get("predicted"), context.task),
            tokens_in=answers.tokens_in,
            tokens_out=answers.tokens_out,
            cost=answers.cost,
            failed=failed,
        )


def _ask(context: Context, direction: Given | None, answers: StepAnswers) -> Answer:
    messages = answers.opening("step") or context.oneshot(direction)
    chat, task = answers.chat("step"), context.task
    output_tokens = OUTPUT_TOKENS
    while not task.stopping.is_set():
        try:
            return chat.complete(messages, max_output_tokens=output_tokens)
        except ContextOverflow as error:
            if output_tokens < 2048:
                raise OperatorFailed(f"the task does not fit into the model's context: {error}") from None
            output_tokens //= 2
        except RequestRejected as error:
            raise OperatorFailed(f"the server refuses the request: {error}") from None
        except ModelCallError as error:
            task.say(f"  model: {error}; asking again")
    raise OperatorStopped("the run is ending")


def _predicted(given: Any, task: Task) -> dict[str, float]:
    """The predictions that name a shape or the geomean and are ratios; the others are left out."""
    known = {GEOMEAN, *(shape.id for shape in task.shapes)}
    ratios = given if isinstance(given, dict) else {}
    return {
        name: float(ratio)
        for name, ratio in ratios.items()
        if name in known and isinstance(ratio, int | float) and ratio > 0 and math.isfinite(ratio)
    }
