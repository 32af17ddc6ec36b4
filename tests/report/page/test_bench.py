"""The page of a bench."""

from __future__ import annotations

from pytest_avo.core.verdict import Comparison, OfKind
from pytest_avo.report.page.bench import BenchResult, BenchResults, bench_page, kinds_of

NORMAL, SPREAD = OfKind(1.05, (1.04, 1.06)), OfKind(0.85, (0.84, 0.86))
RESULT = BenchResult(
    kernel="k.py",
    shape="b1-h2",
    device="GPU",
    verdict="correct",
    median_us=10.0,
    peers={
        "fa3": Comparison(9.5, 0.95, (0.94, 0.96), {"normal": NORMAL, "spread": SPREAD}),
        "cudnn": Comparison(11.0, 1.1, (1.09, 1.11), {"normal": OfKind(1.1, (1.0, 1.2))}),
        "torch": Comparison(20.0, 2.0, (1.9, 2.1)),
    },
)


def test_kinds_that_differ_beyond_the_noise_stand_out() -> None:
    kinds, rows = kinds_of([RESULT])
    assert kinds == ["normal", "spread"]
    assert [(row.peer, row.differ) for row in rows] == [("fa3", True), ("cudnn", False)]
    assert rows[1].ratios[1] is None


def test_the_page_has_a_table_by_kind_of_inputs() -> None:
    page = bench_page([BenchResults("now", [RESULT], {})])
    assert "By kind of inputs" in page
    assert '<tr class="differ">' in page
    assert "0.850x" in page
    plain = BenchResult(kernel="k.py", shape="b1-h2", device="GPU", verdict="correct", median_us=10.0)
    assert "By kind of inputs" not in bench_page([BenchResults("now", [plain], {})])
