"""The Bencher Metric Format."""

from __future__ import annotations

import json
import math

from pytest_avo.report.formats.bmf import bmf
from tests.report.result_rows import row, shape


def test_latency_is_in_nanoseconds_with_the_quartiles_as_bounds() -> None:
    timed = row(shape(), samples_s=(0.001, 0.002, 0.003, 0.004))
    made = json.loads(bmf([timed, row(shape(batch=2), "incorrect")]))
    assert list(made) == [timed.node_id]
    latency = made[timed.node_id]["latency"]
    assert set(made[timed.node_id]) == {"latency"}
    assert {key: round(value) for key, value in latency.items()} == {
        "value": 2_500_000,
        "lower_value": 1_500_000,
        "upper_value": 3_500_000,
    }


def test_what_has_no_finite_figures_is_left_out() -> None:
    assert json.loads(bmf([row(shape(), samples_s=(math.inf, 1.0)), row(shape(batch=2), samples_s=())])) == {}
