"""The operator `agent`: a model with tools."""

from __future__ import annotations

from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def _make(choices: OperatorChoices) -> VariationOperator:
    from pytest_avo.operators.agent.agentic import AgenticOperator
    from pytest_avo.operators.model.source import AnswerSource

    source = AnswerSource.of(choices.agent, operator=AgenticOperator.name, folder=choices.folder)
    return AgenticOperator(choices.agent, source)


OPERATOR = Entry(make=_make, asks_model=True)
