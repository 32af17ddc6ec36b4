"""The formats that results can be written in: each a module beside this one, with a function `of_results`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pytest_avo.report.results import Results


@dataclass(frozen=True, slots=True)
class Format:
    """A format of results."""

    name: str
    """Its option is --avo-NAME."""
    help: str
    module: str

    def text(self, found: Results) -> str:
        """What the file holds. The module is imported only now: options are made from this table in every pytest."""
        return cast("str", importlib.import_module(f"{__package__}.{self.module}").of_results(found))


FORMATS = (
    Format("json", "Write the results as JSON, in pytest-benchmark's schema", "export"),
    Format("bmf", "Write the results in the Bencher Metric Format", "bmf"),
    Format("gab", "Write the results for github-action-benchmark, as its tool customSmallerIsBetter reads them", "gab"),
    Format(
        "markdown",
        "Write the results as GitHub Markdown; a job of GitHub Actions shows them as its summary in any case",
        "markdown",
    ),
    Format(
        "html",
        "Write the results, or the evolution, as a page to look at: one file that loads nothing (extra `report`)",
        "html",
    ),
)
