"""Operators by the names that --avo-operator takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Kernel
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.doors.door_settings import DoorSettings
from pytest_avo.operators.operator import VariationOperator

EMBEDDED = {"tuner": "pytest_avo.operators.tuner.tuner:Tuner"}
ASKING = {
    "agent": "pytest_avo.operators.agent.agentic:AgenticOperator",
    "oneshot": "pytest_avo.operators.agent.oneshot:OneshotOperator",
}
"""Those that ask a model: made from what they may ask and how."""
OUTSIDE = {
    "coding-agent": "pytest_avo.operators.doors.coding_agent:CodingAgentOperator",
    "inbox": "pytest_avo.operators.doors.inbox:InboxOperator",
}
"""Those whose candidates come from outside of the run."""


NO_DOORS = DoorSettings()


def check_kernel(name: str, kernel: Kernel) -> None:
    """InvalidInput where the operator of that name can do nothing with a kernel, as its source shows."""
    if name == "tuner" and not kernel.tunables:
        raise InvalidInput(
            f'{kernel.path}: TUNABLES: expected a module-level literal such as TUNABLES = {{"BLOCK_Q": [64, 128]}} '
            "that names values for the tuner to try, found none; or a model, as in --avo-model NAME"
        )


def load_operator(
    name: str, settings: AgentSettings, *, folder: Path, doors: DoorSettings = NO_DOORS
) -> VariationOperator:
    """The operator of a name, or of MODULE:ATTRIBUTE (a class without arguments); InvalidInput where there is none.

    `folder` is where runs keep their files.
    """
    module, _, attribute = (EMBEDDED | ASKING | OUTSIDE).get(name, name).partition(":")
    if not attribute:
        known = ", ".join(sorted(EMBEDDED | ASKING | OUTSIDE))
        raise InvalidInput(f"--avo-operator: expected one of {known} or MODULE:ATTRIBUTE, got {name!r}")
    try:
        operator = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"--avo-operator: {name!r} cannot be loaded: {error}") from None
    if name == "coding-agent":
        return cast("VariationOperator", operator(settings, doors))
    if name == "inbox":
        return cast("VariationOperator", operator(doors))
    if name not in ASKING:
        return cast("VariationOperator", operator())

    from pytest_avo.operators.model.source import AnswerSource

    return cast("VariationOperator", operator(settings, AnswerSource.of(settings, operator=name, folder=folder)))
