"""The operator `oneshot`: a model's one answer, without tools."""

from __future__ import annotations

from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def _make(choices: OperatorChoices) -> VariationOperator:
    from pytest_avo.operators.agent.oneshot import OneshotOperator
    from pytest_avo.operators.model.source import AnswerSource

    source = AnswerSource.of(choices.agent, operator=OneshotOperator.name, folder=choices.folder)
    return OneshotOperator(choices.agent, source)


OPERATOR = Entry(make=_make, asks_model=True)
