from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.verdict import OfKind
from pytest_avo.report.files.export import document, export, machine_info
from pytest_avo.report.rows import ResultRow
from tests.report.result_rows import beside, row, shape

MACHINE = Fingerprint("cpu", "AMD EPYC", 2, "", "2.13.0", "3.6.0", "3.11.7", "Linux 6.1")
RESULT_KEYS = [
    "kernel",
    "shape",
    "target",
    "device",
    "verdict",
    "reason",
    "failed",
    "median_us",
    "host_us",
    "idle_us",
    "harness_us",
    "spins",
    "tflops",
    "gbps",
    "roofline_fraction",
    "conditions",
    "peers",
]


def kernel_rows() -> list[ResultRow]:
    return [
        row(shape(), peers={"torch-sdpa": beside(1.2, 1.1, 1.3)}, baseline=beside(1.05, 1.0, 1.1), notes=("n1",)),
        row(shape(batch=2), "incorrect", reason="max error 3.2e-2", kernel="kernels/cpu/decode.py", notes=("n1", "n2")),
    ]


def content(rows: list[ResultRow]) -> Any:
    return document(rows, fingerprint=MACHINE, rootdir=Path(__file__).parent)


def test_the_top_level_is_pytest_benchmarks_and_one_key_more() -> None:
    made = content(kernel_rows())
    assert list(made) == ["machine_info", "commit_info", "benchmarks", "datetime", "version", "avo"]
    assert list(made["avo"]) == ["results", "totals", "geomean", "fingerprint", "notes"]


def test_every_item_is_a_result_the_failed_ones_too() -> None:
    good, bad = content(kernel_rows())["avo"]["results"]
    assert list(good) == list(bad) == RESULT_KEYS
    assert (good["kernel"], good["shape"], good["verdict"]) == ("kernels/cpu/prefill.py", shape().id, "correct")
    assert good["median_us"] == 400.0
    assert good["roofline_fraction"] is None
    assert good["peers"] == {
        "baseline": {
            "median_us": 1210.0,
            "host_us": None,
            "idle_us": None,
            "ratio": 1.05,
            "ci95": [1.0, 1.1],
            "kinds": {},
        },
        "torch-sdpa": {
            "median_us": 1210.0,
            "host_us": None,
            "idle_us": None,
            "ratio": 1.2,
            "ci95": [1.1, 1.3],
            "kinds": {},
        },
    }
    assert (bad["verdict"], bad["reason"], bad["median_us"], bad["peers"]) == (
        "incorrect",
        "max error 3.2e-2",
        None,
        {},
    )


def test_a_known_roofline_fraction_is_kept() -> None:
    made = row(shape())
    assert made.timing is not None
    known = msgspec.structs.replace(made, timing=msgspec.structs.replace(made.timing, least_s=0.00062))
    assert content([known])["avo"]["results"][0]["roofline_fraction"] == pytest.approx(0.62)


def test_only_correct_and_timed_items_are_benchmarks() -> None:
    (benchmark,) = content([*kernel_rows(), row(shape(batch=3), samples_s=())])["benchmarks"]
    assert list(benchmark) == ["group", "name", "fullname", "params", "param", "extra_info", "options", "stats"]
    assert benchmark["fullname"] == f"kernels/cpu/prefill.py::{shape().id}"
    assert benchmark["name"] == f"prefill[{shape().id}]"
    assert benchmark["stats"]["data"] == [0.001, 0.0011, 0.0009]
    assert (benchmark["stats"]["median"], benchmark["stats"]["iterations"]) == (0.001, 3)


def test_geomean_fingerprint_and_notes_stand_beside_the_results() -> None:
    avo = content(kernel_rows())["avo"]
    assert avo["geomean"]["torch-sdpa"] == {
        "ratio": pytest.approx(1.2),
        "ci95": pytest.approx([1.104, 1.304], rel=1e-3),
    }
    assert set(avo["geomean"]) == {"baseline", "torch-sdpa"}
    assert avo["fingerprint"]["device"] == "AMD EPYC"
    assert avo["notes"] == ["n1", "n2"]


def test_no_number_is_infinite_or_nan(tmp_path: Path) -> None:
    odd = row(shape(), peers={"stuck": beside(math.inf, 1.0, math.nan)}, median_us=math.inf, samples_s=(math.nan, 1.0))
    text = export([odd], fingerprint=None, rootdir=tmp_path)
    made = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    assert made["benchmarks"] == []
    assert made["avo"]["results"][0]["median_us"] is None
    assert made["avo"]["results"][0]["peers"]["stuck"]["ratio"] is None
    assert made["avo"]["fingerprint"] is None


def test_pytest_benchmark_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "out.json"
    rows = [*kernel_rows(), row(shape(), kernel="kernels/cpu/other.py", samples_s=(0.002,)), row(shape(batch=3))]
    write_atomically(path, export(rows, fingerprint=MACHINE, rootdir=tmp_path))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=min,median,iqr,rounds,ops"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stdout + done.stderr
    for name in (f"prefill[{shape().id}]", f"other[{shape().id}]", f"prefill[{shape(batch=3).id}]"):
        assert name in done.stdout
    assert "2,000.0000 (2.22)" in done.stdout


def test_the_machine_is_described_in_plain_values() -> None:
    info = machine_info()
    assert json.loads(json.dumps(info)) == info
    assert {"node", "machine", "python_version", "system", "cpu"} <= set(info)


def test_every_kind_of_inputs_has_its_ratio() -> None:
    kinds = {"normal": OfKind(1.1, (1.0, 1.2)), "spread": OfKind(0.8, (0.7, 0.9))}
    peer = msgspec.structs.replace(beside(0.94, 0.9, 1.0), kinds=kinds)
    [found] = content([row(shape(), peers={"fa3": peer})])["avo"]["results"]
    assert found["peers"]["fa3"]["kinds"] == {
        "normal": {"ratio": 1.1, "ci95": [1.0, 1.2]},
        "spread": {"ratio": 0.8, "ci95": [0.7, 0.9]},
    }
