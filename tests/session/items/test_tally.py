"""What a run that measures ends with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from pytest_avo.plugin import RunHooks
from pytest_avo.report.results import Unmeasured
from pytest_avo.session.items.report_values import UNMEASURED
from pytest_avo.session.items.tally import Tally
from pytest_avo.session.kernel_run import KernelRun

OK, FAILED, INTERNAL, USAGE = 0, 1, 3, 4


def report(outcome: str, unmeasured: Unmeasured | None = None) -> pytest.TestReport:
    made = pytest.TestReport("k.py::s", ("k.py", None, "s"), {}, outcome, None, "setup")  # type: ignore[arg-type]
    if unmeasured is not None:
        UNMEASURED.put(made, unmeasured)
    return pytest.TestReport._from_json(made._to_json())


WRONG = report("failed")
LOST = report("failed", Unmeasured("k.py", "s", "no worker is left", is_machine=True))
MISTAKEN = report("failed", Unmeasured("k.py", "usage", "claims no shapes", is_machine=False))


@pytest.mark.parametrize(
    ("reports", "status", "expected"),
    [
        ([report("passed")], OK, OK),
        ([WRONG], FAILED, FAILED),
        ([LOST, report("passed")], FAILED, INTERNAL),
        ([MISTAKEN], FAILED, USAGE),
        ([MISTAKEN, LOST], FAILED, INTERNAL),
        ([MISTAKEN, LOST, WRONG], FAILED, FAILED),
        ([LOST], 2, 2),
        ([], 5, 5),
    ],
)
def test_the_exit_status_says_whose_fault_it_is(reports: list[pytest.TestReport], status: int, expected: int) -> None:
    tally = Tally()
    for each in reports:
        tally.keep(each)
    assert tally.exit_status(status) == expected


def test_what_is_run_again_counts_once() -> None:
    """pytest-rerunfailures reports every try; the last one has another outcome."""
    kept: list[pytest.TestReport] = []
    hooks = RunHooks(cast("KernelRun", SimpleNamespace(keep=kept.append)))
    for outcome in ("rerun", "rerun", "passed"):
        hooks.pytest_runtest_logreport(report(outcome))
    assert [str(each.outcome) for each in kept] == ["passed"]
