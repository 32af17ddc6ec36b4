"""What the reports of a run carried: results, in the order in which their items were collected."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

import pytest

from pytest_avo.core.verdict import Total
from pytest_avo.report.results import Unmeasured
from pytest_avo.report.rows import ResultRow
from pytest_avo.session.items.report_values import ROW, TOTAL, UNMEASURED


class Tally:
    """Results as they come in, from this process or from xdist's workers."""

    def __init__(self) -> None:
        self.rows: list[ResultRow] = []
        self.totals: list[Total] = []
        self.unmeasured: list[Unmeasured] = []
        self._failed = 0
        self._order: dict[str, int] = {}

    def keep_order(self, node_ids: Sequence[str]) -> None:
        """Results are shown in this order, that of their collection, whichever worker has finished first."""
        self._order = {node_id: position for position, node_id in enumerate(node_ids)}

    def keep(self, report: pytest.TestReport) -> None:
        """Keep the result that a report carries."""
        if row := ROW.of(report):
            insort(self.rows, row, key=lambda row: self._order.get(row.node_id, len(self._order)))
        if total := TOTAL.of(report):
            self.totals.append(total)
        if unmeasured := UNMEASURED.of(report):
            self.unmeasured.append(unmeasured)
        elif report.failed:
            self._failed += 1

    def exit_status(self, status: int) -> int:
        """What the run ends with.

        1 where a kernel is wrong or the gate failed, whatever became of the failing tests' reports; else 3 where the
        machine failed, and 4 where nothing but a user's mistake kept kernels from being measured.
        """
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return status
        regressed = any(row.verdict.regressed for row in self.rows) or any(total.regressed for total in self.totals)
        if regressed or self._failed:
            return pytest.ExitCode.TESTS_FAILED
        if any(each.is_machine for each in self.unmeasured):
            return pytest.ExitCode.INTERNAL_ERROR
        return pytest.ExitCode.USAGE_ERROR if self.unmeasured else status
