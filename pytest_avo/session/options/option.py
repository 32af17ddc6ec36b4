"""What a user can set, as a value: the parser, the reading of settings and docs/reference/ are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pytest_avo.run.mode import MODES, Mode

ValueKind = Literal["switch", "text", "texts", "whole", "decimal"]
"""A flag without a value, a text, texts (the option can be given several times), a whole number, any number."""
Section = Literal["mode", "measuring", "gate", "results", "spool", "evolution", "budget", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A command line option: how it is written, and where it means something."""

    flag: str
    help: str
    """Capital letter, no full stop for a single phrase; `{default}` and `{least}` stand for themselves."""
    section: Section
    kind: ValueKind = "text"
    alias: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    default: str | int | float | None = None
    least: int | None = None
    """The smallest number that is taken."""
    without_value: str = ""
    """What the option stands for where it is given without a value; "": it needs one."""
    has_ini: bool = False
    """Whether an ini key and a variable of the environment give its default."""
    modes: tuple[Mode, ...] = MODES
    """Modes in which the option means something."""
    operators: tuple[str, ...] = ()
    """Operators to which it means something, in an evolution; (): to every one."""

    @property
    def name(self) -> str:
        """The attribute of pytest's options that holds it."""
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def ini_key(self) -> str:
        """The ini key that gives its default; "" for none."""
        return self.name if self.has_ini else ""

    @property
    def variable(self) -> str:
        """The environment variable that gives its default; "" for none."""
        return f"PYTEST_{self.name.upper()}" if self.has_ini else ""

    @property
    def flags(self) -> tuple[str, ...]:
        """All ways to write it."""
        return (self.flag, self.alias) if self.alias else (self.flag,)

    @property
    def text(self) -> str:
        """The help text with its figures filled in."""
        default = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return self.help.replace("{default}", default).replace("{least}", str(self.least))

    def add_to(self, group: pytest.OptionGroup) -> None:
        """Register it. What was not given is None (a switch: False; texts: []), so that it can be told from a default.

        Values stay plain, because xdist sends them to its workers.
        """
        said: dict[str, Any] = {"help": self.text.replace("%", "%%")}
        if self.kind == "switch":
            said["action"] = "store_true"
        else:
            said |= {"metavar": self.metavar} if self.metavar else {}
            said |= {"choices": self.choices} if self.choices else {}
            said |= {"nargs": "?", "const": self.without_value} if self.without_value else {}
            said |= {"action": "append", "default": []} if self.kind == "texts" else {}
            said |= {"type": {"whole": int, "decimal": float}[self.kind]} if self.kind in ("whole", "decimal") else {}
        group.addoption(*self.flags, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class IniKey:
    """An ini key that is more than the default of an option."""

    name: str
    help: str
    type: Literal["string", "args", "linelist"] = "linelist"
    default: tuple[str, ...] = ()

    def add_to(self, parser: pytest.Parser) -> None:
        """Register it."""
        parser.addini(self.name, self.help, type=self.type, default="" if self.type == "string" else list(self.default))
