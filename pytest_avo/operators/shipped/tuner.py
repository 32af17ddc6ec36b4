"""The operator `tuner`: a search over declared tunables, without a model."""

from __future__ import annotations

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Kernel
from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def _make(_: OperatorChoices) -> VariationOperator:
    from pytest_avo.operators.tuner.tuner import Tuner

    return Tuner()


def _check_kernel(kernel: Kernel) -> None:
    if not kernel.tunables:
        raise InvalidInput(
            f'{kernel.path}: TUNABLES: expected a module-level literal such as TUNABLES = {{"BLOCK_Q": [64, 128]}} '
            "that names values for the tuner to try, found none; or a model, as in --avo-model NAME"
        )


OPERATOR = Entry(make=_make, answers_at_once=True, check_kernel=_check_kernel)
