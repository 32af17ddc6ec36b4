"""What github-action-benchmark reads."""

from __future__ import annotations

import json

import pytest

from pytest_avo.report.formats.gab import gab
from tests.report.result_rows import row, shape


def test_an_entry_per_timed_item() -> None:
    timed = row(shape(), "same", samples_s=(0.001, 0.002, 0.003, 0.004), device="AMD EPYC")
    (entry,) = json.loads(gab([timed, row(shape(batch=2), "crashed")]))
    assert entry == {
        "name": timed.node_id,
        "unit": "us",
        "value": pytest.approx(2500),
        "range": "± 1e+03",
        "extra": "same, 4 rounds, AMD EPYC",
    }


def test_no_results_are_an_empty_list() -> None:
    assert json.loads(gab([])) == []
