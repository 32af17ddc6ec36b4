"""What the user chose of the options: values, and refusal of what means nothing in this run."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Any, cast

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.run.mode import Mode
from pytest_avo.session.options.evolving import ANY_OTHER
from pytest_avo.session.options.measuring import MODE_OPTIONS
from pytest_avo.session.options.option import Option
from pytest_avo.session.options.table import OPTIONS

LARGEST = 1e18
"""No number that anybody means is larger, and none that is smaller is too large for the lineage."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of a run in one mode. What an ini file's addopts say of another mode counts for nothing here."""

    config: pytest.Config
    mode: Mode

    def value(self, name: str) -> Any:
        """An option by name: as given, else of its variable or ini key, else its default; InvalidInput if too small."""
        option = OPTIONS[name]
        found = _given(self.config, option) if self.mode in option.modes else None
        if found is None and option.has_ini:
            found = os.environ.get(option.variable) or str(self.config.getini(option.ini_key))
        if found is None:
            return {"switch": False, "texts": []}.get(option.kind, option.default)
        if option.least is not None and not found >= option.least:
            raise InvalidInput(f"{option.flag}: expected at least {option.least}, got {found}")
        if option.kind in ("whole", "decimal") and abs(found) > LARGEST:
            raise InvalidInput(f"{option.flag}: expected a number below {LARGEST:.0e}, got {found}")
        return found

    def text(self, name: str) -> str:
        """A text option; "" where there is none."""
        return cast("str", self.value(name) or "")

    def refuse_foreign(self) -> None:
        """InvalidInput for an option that was asked of this run and means nothing in its mode."""
        for option in asked(self.config):
            if self.mode not in option.modes:
                raise InvalidInput(f"{option.flag}: goes with {_modes(option)}, not with --avo-{self.mode}")

    def refuse_foreign_to(self, operator: str, *, why: str) -> None:
        """InvalidInput for an option that was asked of this run and means nothing to its operator.

        why: how the operator came to be chosen where the user did not name it, or "".
        """
        kind = ANY_OTHER if ":" in operator else operator
        for option in asked(self.config):
            if option.operators and kind not in option.operators:
                fitting = " or ".join(option.operators)
                expected = f"goes with --avo-operator {fitting}, not with {operator}"
                raise InvalidInput(f"{option.flag}: {expected}{f', {why}' if why else ''}")


def chosen_mode(config: pytest.Config) -> Mode | None:
    """The mode that the user chose, or None where nothing was asked of this plugin; InvalidInput for two."""
    chosen = [mode for mode, option in MODE_OPTIONS.items() if _given(config, option) is not None]
    if len(chosen) > 1:
        raise InvalidInput(f"{' and '.join(MODE_OPTIONS[mode].flag for mode in chosen)}: expected one of them")
    return chosen[0] if chosen else None


def is_asked(config: pytest.Config) -> bool:
    """Whether anything was asked of this plugin; UsageError for an option without a mode, which would do nothing."""
    if any(_given(config, option) is not None for option in MODE_OPTIONS.values()):
        return True
    for option in asked(config):
        raise pytest.UsageError(f"{option.flag}: expected {_modes(option)} too")
    return False


def asked(config: pytest.Config) -> list[Option]:
    """The options asked of this very run: on the command line or in PYTEST_ADDOPTS.

    The addopts of an ini file are a project's defaults, which are there in runs that they do not concern.
    """
    if hasattr(config, "workerinput"):
        return []  # its controller has seen to that
    words = [*map(str, config.invocation_params.args), *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    flags = {word.partition("=")[0] for word in words}
    return [
        option
        for option in OPTIONS.values()
        if _given(config, option) is not None and not flags.isdisjoint(option.flags)
    ]


def with_place(config: pytest.Config, mistake: str) -> str:
    """What is wrong with an option's value, and where that value stands if not on the command line."""
    for option in OPTIONS.values():
        if option.has_ini and mistake.startswith((f"{option.flag}:", f"{option.flag} ")):
            if _given(config, option) is not None:
                return mistake
            if os.environ.get(option.variable):
                return f"{mistake} (from the variable {option.variable})"
            if config.getini(option.ini_key):
                file = f" of {config.inipath}" if config.inipath else ""
                return f"{mistake} (from the ini key {option.ini_key}{file})"
    return mistake


def _given(config: pytest.Config, option: Option) -> Any:
    """What was given; None for nothing."""
    found = getattr(config.option, option.name, None)
    return None if found is False or found == [] else found


def _modes(option: Option) -> str:
    flags = [MODE_OPTIONS[mode].flag for mode in option.modes]
    return " or ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)
