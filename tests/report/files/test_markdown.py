from __future__ import annotations

import msgspec

from pytest_avo.core.verdict import Total
from pytest_avo.report.files.markdown import escape, headline, markdown
from pytest_avo.report.results import Unmeasured
from tests.report.result_rows import beside, row, shape

PEERS = {"torch-sdpa": beside(1.214, 1.181, 1.241)}


def test_the_report_of_one_kernel() -> None:
    rows = [
        row(shape(), peers=PEERS, notes=("flex absent",)),
        row(shape(batch=2), "incorrect", reason="max error 3.2e-2 | 1.1e-3", notes=("flex absent",)),
    ]
    assert markdown(rows) == "\n".join(
        [
            "**2 results of 1 kernel: 1 correct, 1 incorrect.**",
            "",
            "| kernel                 | shape                          | verdict   | reason                     |",
            "|:-----------------------|:-------------------------------|:----------|:---------------------------|",
            "| kernels/cpu/prefill.py | b2-h8-q512-k512-d64-causal-f32 | incorrect | max error 3.2e-2 \\| 1.1e-3 |",
            "",
            "<details><summary>All 2 results</summary>",
            "",
            "#### kernels/cpu/prefill.py on cpu",
            "",
            "1 correct, 1 incorrect",
            "",
            "| shape                          |   median us |   TFLOP/s |       vs torch-sdpa | verdict   |",
            "|:-------------------------------|------------:|----------:|--------------------:|:----------|",
            "| b1-h8-q512-k512-d64-causal-f32 |       400.0 |     0.671 | 1.21 \\[1.18, 1.24\\] | correct   |",
            "| b2-h8-q512-k512-d64-causal-f32 |           - |         - |                   - | incorrect |",
            "",
            "- flex absent",
            "",
            "ratios: time of the other / time of the kernel, above 1 the kernel is faster; \\[95% interval\\]",
            "",
            "</details>",
            "",
        ]
    )


def test_the_headline_has_counts_and_geomean() -> None:
    rows = [row(shape(), peers=PEERS), row(shape(), kernel="kernels/cpu/decode.py", peers=PEERS)]
    expected = "2 results of 2 kernels: 2 correct; geomean vs torch-sdpa 1.21 \\[1.19, 1.24\\]."
    assert headline(rows) == expected


def test_a_report_without_failures_starts_with_the_fold() -> None:
    parts = markdown([row(shape())]).split("\n\n")
    assert parts[:2] == ["**1 result of 1 kernel: 1 correct.**", "<details><summary>All 1 result</summary>"]
    assert "ratios" not in parts[-2]


def test_no_results_are_said_in_a_sentence() -> None:
    assert markdown([]) == "**No results.**\n"


def test_foreign_text_is_shown_not_obeyed() -> None:
    assert escape("a|b <b>`x`</b>\n# @team $1") == "a\\|b &lt;b\\>\\`x\\`&lt;/b\\> \\# @\u200bteam \\$1"


def test_a_reason_cannot_leave_its_cell() -> None:
    made = markdown([row(shape(), "crashed", reason="one | two\n\n</details> | three")])
    (line,) = [line for line in made.splitlines() if line.startswith("| kernels/")]
    assert line.replace("\\|", "").count("|") == 5
    assert made.count("</details>") == 1


def test_what_the_gate_found_stands_before_the_fold() -> None:
    slow, new = row(shape(), "slower", reason="8% slower"), row(shape(batch=2), reason="git:main has no such kernel")
    slow = msgspec.structs.replace(slow, verdict=msgspec.structs.replace(slow.verdict, regressed=True))
    new = msgspec.structs.replace(new, verdict=msgspec.structs.replace(new.verdict, unmatched=True))
    unclear = row(shape(batch=3), "ambiguous", reason="who knows")
    total = Total(slow.kernel, "geomean", "same", "0.1% slower")
    table = markdown([unclear, new, slow], [total]).partition("<details>")[0]
    cells = [[cell.strip() for cell in line.split("|")[2:5]] for line in table.splitlines() if "kernels/" in line]
    assert cells == [
        [slow.shape.id, "slower", "8% slower"],
        [unclear.shape.id, "ambiguous", "who knows"],
        [new.shape.id, "no baseline", "git:main has no such kernel"],
        ["geomean", "same", "0.1% slower"],
    ]


def test_a_report_that_github_would_refuse_is_shortened() -> None:
    rows = [row(shape(batch=batch)) for batch in range(1, 200)]
    whole = markdown(rows)
    assert markdown(rows, most_bytes=len(whole.encode())) == whole
    assert markdown(rows, most_bytes=1000) == "**199 results of 1 kernel: 199 correct.**\n"


def test_what_could_not_be_measured_is_listed() -> None:
    report = markdown([], [], [Unmeasured("a.py", "usage", "claims no shapes", is_machine=False)])
    cells = [cell.strip() for cell in report.splitlines()[-1].strip("|").split("|")]
    assert cells == ["a.py", "usage", "usage error", "claims no shapes"]
