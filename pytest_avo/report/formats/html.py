"""--avo-html: results as a page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.report.results import Results

HELP = "Write the results, or the evolution, as a page to look at: one file that loads nothing (extra `report`)"


def of_results(found: Results) -> str:
    """The page of a run."""
    import msgspec

    from pytest_avo.report.page.bench import BenchResult, BenchResults, bench_page
    from pytest_avo.report.rows import comparisons

    results = [
        BenchResult(
            kernel=row.kernel,
            shape=row.shape.id,
            device=row.device,
            verdict=row.verdict.kind,
            reason="; ".join(filter(None, (row.verdict.reason, *row.verdict.notes))),
            median_us=row.verdict.median_us,
            tflops=row.verdict.tflops,
            gbps=row.verdict.gbps,
            roofline_fraction=row.roofline_fraction,
            peers=comparisons(row),
        )
        for row in found.rows
    ]
    results += [BenchResult(x.kernel, x.name, "", x.kind, x.reason) for x in found.unmeasured]
    machine = {name: str(value) for name, value in msgspec.structs.asdict(found.fingerprint).items()}
    return bench_page([BenchResults("this run", results, machine)])
