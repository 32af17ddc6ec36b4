"""--avo-json: pytest-benchmark's schema and every item under `avo`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.plugin.conftest import GOOD, SHAPES, WRONG, Project


@pytest.mark.usefixtures("scripted")
def test_has_every_item_and_the_geomean(project: Project) -> None:
    project.kernel("good.py", GOOD)
    project.kernel("wrong.py", WRONG)
    result = project.run(
        "--avo-bench",
        "kernels/good.py",
        "kernels/wrong.py",
        "--avo-max-rounds",
        "4",
        "--avo-json",
        "made/out.json",
        "-q",
    )
    assert result.ret == 1
    made = project.json("made/out.json")
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version", "avo"} <= set(made)
    rows = {(row["kernel"], row["shape"]): row for row in made["avo"]["results"]}
    assert set(rows) == {(f"kernels/{name}.py", shape) for name in ("good", "wrong") for shape in SHAPES}
    right = rows["kernels/good.py", SHAPES[0]]
    assert right["verdict"] == "correct"
    assert right["median_us"] > 0
    low, high = right["peers"]["torch-sdpa"]["ci95"]
    assert low <= right["peers"]["torch-sdpa"]["ratio"] <= high
    assert rows["kernels/wrong.py", SHAPES[0]]["median_us"] is None
    assert set(made["avo"]["geomean"]) == {"torch-sdpa"}
    assert [b["fullname"] for b in made["benchmarks"]] == [f"kernels/good.py::{shape}" for shape in SHAPES]


def test_a_path_that_cannot_be_written_is_a_usage_error_before_anything_runs(project: Project) -> None:
    (project.path / "taken").write_text("a file, not a folder")
    project.refuses("*taken*", "--avo-bench", "--avo-json", "taken/out.json")


@pytest.mark.usefixtures("scripted")
def test_pytest_benchmark_compares_two_runs(project: Project) -> None:
    for name in ("0001_old.json", "0002_new.json"):
        project.run("--avo-bench", "--avo-max-rounds", "3", "--avo-json", f"runs/{name}", "-k", SHAPES[0])
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "runs/0001_old.json", "runs/0002_new.json"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"slow[{SHAPES[0]}]") == 2
    assert "0001_old" in done.stdout


def test_two_formats_want_two_files(project: Project) -> None:
    both = ["--avo-json", "out.txt", "--avo-markdown", "./out.txt"]
    project.refuses("--avo-json and --avo-markdown: expected two files, got */out.txt for both", "--avo-bench", *both)
