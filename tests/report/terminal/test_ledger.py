"""The ledger's table."""

from __future__ import annotations

from pytest_avo.evaluation.evaluator import Work
from pytest_avo.report.terminal.ledger import ledger, workers


def test_rows_with_and_without_a_limit() -> None:
    lines = [line.text for line in ledger([("tokens", "7,700", "1,000,000"), ("wall time", "12.6 s", "")])]
    assert lines == [
        "",
        "ledger      spent      limit",
        "---------  ------  ---------",
        "tokens      7,700  1,000,000",
        "wall time  12.6 s          -",
    ]


def test_workers_with_what_they_did_and_what_became_of_them() -> None:
    done = Work("gw0 (popen)", "here", "cpu", 12, 30.0, "")
    lost = Work("gw1 (ssh=there)", "", "", 0, 0.0, "lost: ssh cannot reach it")
    assert [line.text for line in workers([done, lost], wall_s=60.0)] == [
        "",
        "worker           host  device  shapes answered    busy  of the run",
        "---------------  ----  ------  ---------------  ------  ----------",
        "gw0 (popen)      here  cpu                  12  30.0 s         50%",
        "gw1 (ssh=there)  -     -                     0     0 s          0%",
        "gw1 (ssh=there) is lost: ssh cannot reach it",
    ]
    assert workers([done], wall_s=60.0) == []
