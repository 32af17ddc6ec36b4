"""The entry of an operator that ships: what the catalogue must know before it imports the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_avo.core.kernel import Kernel
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.operator import VariationOperator


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorChoices:
    """What the user chose for operators; each takes what concerns it."""

    agent: AgentSettings
    external: ExternalSettings = field(default_factory=ExternalSettings)
    folder: Path
    """Where runs keep their files."""


def _takes_every_kernel(_: Kernel) -> None:
    """Most operators do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An operator's entry."""

    make: Callable[[OperatorChoices], VariationOperator]
    """The operator; InvalidInput where a choice is missing that it needs. It imports what it needs only now."""
    asks_model: bool = False
    """Whether a step costs tokens."""
    answers_at_once: bool = False
    """Whether it looks only at the lineage: members are then asked in turn, each knowing what those before proposed."""
    check_kernel: Callable[[Kernel], None] = _takes_every_kernel
    """InvalidInput where it can do nothing with a kernel, as its source shows."""
