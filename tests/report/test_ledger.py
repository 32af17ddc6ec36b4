"""The ledger's table."""

from __future__ import annotations

from pytest_avo.report.ledger import ledger


def test_rows_with_and_without_a_limit() -> None:
    lines = [line.text for line in ledger([("tokens", "7,700", "1,000,000"), ("wall time", "12.6 s", "")])]
    assert lines == [
        "",
        "ledger      spent      limit",
        "---------  ------  ---------",
        "tokens      7,700  1,000,000",
        "wall time  12.6 s          -",
    ]
