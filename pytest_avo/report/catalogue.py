"""The formats that results can be written in: the modules of `formats/`, by their names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_avo.report import formats

if TYPE_CHECKING:
    from pytest_avo.report.results import Results


@dataclass(frozen=True, slots=True)
class Format:
    """A format of results."""

    name: str
    """Its option is --avo-NAME."""
    help: str
    text: Callable[[Results], str]
    """What the file holds."""


def _format(name: str) -> Format:
    module = importlib.import_module(f"{formats.__name__}.{name}")
    return Format(name, module.HELP, module.of_results)


FORMATS = tuple(_format(module.name) for module in pkgutil.iter_modules(formats.__path__))
