"""The table of an A/A run."""

from __future__ import annotations

from pytest_avo.report.terminal.noise import NoiseRow, table


def test_a_row_says_how_far_a_kernel_was_from_itself() -> None:
    rows = [NoiseRow("kernels/a.py::b1", [[0.0, 0.02, 0.01], [0.01, 0.01, 0.01]])]
    header, _, line = (line.text for line in table(rows))
    assert header.split("  ")[0] == "kernel and shape"
    assert line.split()[:4] == ["kernels/a.py::b1", "2", "6", "1.010"]


def test_nothing_measured_shows_nothing() -> None:
    assert list(table([])) == []
