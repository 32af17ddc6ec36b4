"""--avo-json: everything that a run found, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.report.results import Results

HELP = "Write the results as JSON, in pytest-benchmark's schema"


def of_results(found: Results) -> str:
    """The file of a run."""
    from pytest_avo.report.files.export import export

    return export(
        found.rows, found.totals, fingerprint=found.fingerprint, rootdir=found.rootdir, evolution=found.evolution
    )
