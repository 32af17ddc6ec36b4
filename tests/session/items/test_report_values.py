"""Results on their way from the process that ran an item to the one that shows it."""

from __future__ import annotations

import math

import pytest

from pytest_avo.core.verdict import Total
from pytest_avo.report.rows import ResultRow
from pytest_avo.session.items.report_values import ROW, TOTAL
from tests.report.result_rows import beside, row, shape


def report() -> pytest.TestReport:
    return pytest.TestReport("k.py::s", ("k.py", None, "s"), {}, "passed", None, "call")


def sent(original: pytest.TestReport) -> pytest.TestReport:
    """As it comes out at the other end of xdist's line."""
    return pytest.TestReport._from_json(original._to_json())


@pytest.mark.parametrize(
    "original",
    [
        row(shape(weight=2.5), peers={"torch-sdpa": beside(1.2, 1.1, 1.3)}, baseline=beside(1, 0.9, 1.1), notes=("n",)),
        row(shape(), "incorrect", reason="max error 3.2e-2 > limit 1.1e-3 (randn) \N{MICRO SIGN}"),
        row(shape(), peers={"stuck": beside(math.inf, 0.0, math.inf)}),
    ],
    ids=["timed", "failed", "infinite"],
)
def test_a_row_survives_its_journey(original: ResultRow) -> None:
    carrier = report()
    ROW.put(carrier, original)
    assert ROW.of(sent(carrier)) == original


def test_what_a_report_does_not_carry_is_none() -> None:
    carrier = report()
    assert ROW.of(sent(carrier)) is None
    TOTAL.put(carrier, Total("k.py", "geomean", "slower", "4% slower", regressed=True))
    assert ROW.of(sent(carrier)) is None
    assert TOTAL.of(sent(carrier)) == Total("k.py", "geomean", "slower", "4% slower", regressed=True)
