"""--avo-markdown: results to be read on GitHub."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.report.results import Results

HELP = "Write the results as GitHub Markdown; a job of GitHub Actions shows them as its summary in any case"


def of_results(found: Results) -> str:
    """The file of a run."""
    from pytest_avo.report.files.markdown import evolution, markdown

    whole = markdown(found.rows, found.totals, found.unmeasured)
    return whole if found.evolution is None else f"{evolution(found.evolution)}\n\n{whole}"
