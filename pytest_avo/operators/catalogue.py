"""Operators by the names that --avo-operator takes: the modules of `shipped/`, or any class by its place."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators import shipped
from pytest_avo.operators.entry import Entry, OperatorChoices
from pytest_avo.operators.operator import VariationOperator


def names() -> list[str]:
    """Names of the operators that ship."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(shipped.__path__))


def entry(name: str) -> Entry:
    """The entry of a name, or of MODULE:ATTRIBUTE (a class without arguments); InvalidInput where there is no such."""
    if ":" in name:
        return Entry(make=lambda _: _by_place(name))
    if name not in names():
        raise InvalidInput(f"--avo-operator: expected one of {', '.join(names())} or MODULE:ATTRIBUTE, got {name!r}")
    module = importlib.import_module(f"{shipped.__name__}.{name.replace('-', '_')}")
    return cast("Entry", module.OPERATOR)


def load_operator(name: str, choices: OperatorChoices) -> VariationOperator:
    """The operator of a name or place; InvalidInput where there is none, or a choice is missing that it needs."""
    return entry(name).make(choices)


def _by_place(place: str) -> VariationOperator:
    module, _, attribute = place.partition(":")
    expected = "expected a class without arguments that has a name, describe() and propose(task)"
    try:
        operator = getattr(importlib.import_module(module), attribute)()
        fits = isinstance(operator.name, str) and callable(operator.describe) and callable(operator.propose)
    except InvalidInput:
        raise  # it says itself what it lacks
    except Exception as error:  # whatever the user's module, or class, does when it is loaded
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise InvalidInput(f"--avo-operator: {place!r} cannot be loaded: {reason}; {expected}") from None
    if not fits:
        raise InvalidInput(f"--avo-operator: {place!r}: {expected}")
    return cast("VariationOperator", operator)
