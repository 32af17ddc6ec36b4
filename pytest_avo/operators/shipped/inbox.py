"""The operator `inbox`: files that whoever likes puts into a folder."""

from __future__ import annotations

from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def _make(choices: OperatorChoices) -> VariationOperator:
    from pytest_avo.operators.external.inbox import InboxOperator

    return InboxOperator(choices.external)


OPERATOR = Entry(make=_make)
