"""The operator `coding-agent`: a program in a folder of its own."""

from __future__ import annotations

from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def _make(choices: OperatorChoices) -> VariationOperator:
    from pytest_avo.operators.external.coding_agent import CodingAgentOperator

    return CodingAgentOperator(choices.agent, choices.external)


OPERATOR = Entry(make=_make, asks_model=True)
