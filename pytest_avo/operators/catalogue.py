"""Operators by the names that --avo-operator takes."""

from __future__ import annotations

import importlib
from typing import cast

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.operator import VariationOperator

KNOWN = {"tuner": "pytest_avo.operators.tuner:Tuner"}


def load_operator(name: str) -> VariationOperator:
    """The operator of a name, or of MODULE:ATTRIBUTE (a class without arguments); InvalidInput where there is none."""
    module, _, attribute = KNOWN.get(name, name).partition(":")
    if not attribute:
        raise InvalidInput(
            f"--avo-operator: expected one of {', '.join(sorted(KNOWN))} or MODULE:ATTRIBUTE, got {name!r}"
        )
    try:
        return cast("VariationOperator", getattr(importlib.import_module(module), attribute)())
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"--avo-operator: {name!r} cannot be loaded: {error}") from None
