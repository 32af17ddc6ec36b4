"""--avo-aa: the noise floor is measured, kept, and used by later runs on the same machine."""

from __future__ import annotations

import json
import re

import pytest

from tests.plugin.conftest import GOOD, SHAPES, WRONG, Project


def floor_of(project: Project) -> float:
    [path] = (project.path / "cache" / "pytest-avo").glob("noise-*.json")
    return float(json.loads(path.read_text())["floor"])


@pytest.mark.usefixtures("warm")
def test_a_kernel_beside_itself_gives_the_floor_of_later_runs(project: Project) -> None:
    project.kernel("good.py", GOOD)
    result = project.run("--avo-aa", "kernels/good.py", "--avo-max-rounds", "6", "-k", SHAPES[1])
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["avo: * (aa; * peers none; *; noise floor 1.0% assumed)"])
    shown = [line for line in result.outlines if line.startswith("kernels/good.py::")]
    assert [line.split()[:3] for line in shown] == [[f"kernels/good.py::{SHAPES[1]}", "3", "6"]]
    line = next(line for line in result.outlines if line.startswith("noise floor"))
    assert re.match(r"noise floor \d+\.\d\d% from 1 comparison on .*, fingerprint [0-9a-f]{12}", line)
    [kept] = (project.path / "cache" / "pytest-avo").glob("noise-*.json")
    assert f"kept for later runs in {kept}, until it is measured anew" in result.outlines
    later = project.run("--avo-bench", "kernels/good.py", "--avo-peers", "none", "--co")
    later.stdout.fnmatch_lines([f"avo: * (bench; *; noise floor {floor_of(project):.1%} of 20??-??-??)"])


@pytest.mark.usefixtures("scripted")
def test_workers_report_to_one_floor(project: Project) -> None:
    project.kernel("good.py", GOOD)
    result = project.run("--avo-aa", "kernels/good.py", "--avo-max-rounds", "9", "-n", "2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["noise floor * from 2 comparisons on *"])
    assert floor_of(project) > 0


@pytest.mark.usefixtures("scripted")
def test_a_wrong_kernel_fails_and_gives_no_floor(project: Project) -> None:
    project.kernel("wrong.py", WRONG)
    result = project.run("--avo-aa", "kernels/wrong.py")
    result.assert_outcomes(failed=2)
    assert result.ret == 1
    assert not list((project.path / "cache" / "pytest-avo").glob("noise-*.json"))
    result.stdout.no_fnmatch_line("*noise floor * from *")


@pytest.mark.usefixtures("lost")
def test_a_machine_that_fails_is_no_wrong_kernel(project: Project) -> None:
    result = project.run("--avo-aa", "kernels/slow.py")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["evaluator: no worker is left: gw0 (popen)"])
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
