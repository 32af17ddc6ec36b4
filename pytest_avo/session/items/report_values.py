"""Values on pytest's reports: from the process that ran an item, maybe an xdist worker, to the one that shows them."""

from __future__ import annotations

import json
from typing import Generic, TypeVar

import msgspec
import pytest

from pytest_avo.core.verdict import Total
from pytest_avo.report.results import Unmeasured
from pytest_avo.report.rows import ResultRow

Value = TypeVar("Value")


class ReportValue(Generic[Value]):
    """An attribute of reports; its value is JSON text, which is what xdist takes."""

    def __init__(self, name: str, kind: type[Value]) -> None:
        self._name = name
        self._kind = kind

    def put(self, report: pytest.TestReport, value: Value) -> None:
        """Have a report carry a value."""
        # Python's json keeps an infinity, which msgspec's would turn into a null that no float field accepts.
        setattr(report, self._name, json.dumps(msgspec.to_builtins(value)))

    def of(self, report: pytest.TestReport) -> Value | None:
        """What a report carries; None where it carries none."""
        text = getattr(report, self._name, None)
        return None if text is None else msgspec.convert(json.loads(text), self._kind)


ROW = ReportValue("avo_row", ResultRow)
"""The result of a kernel on a shape."""
TOTAL = ReportValue("avo_total", Total)
"""The judgement of a kernel over several shapes."""
UNMEASURED = ReportValue("avo_unmeasured", Unmeasured)
"""Why an item could not be measured."""
