"""--avo-bmf, --avo-gab, --avo-markdown, and what a job of GitHub Actions takes by itself."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.plugin.conftest import GOOD, SHAPES, WRONG, Project

pytestmark = pytest.mark.usefixtures("scripted")

ROUNDS = ("--avo-max-rounds", "3")


@pytest.fixture
def job(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in a job of GitHub, with a wrong kernel."""
    project.kernel("wrong.py", WRONG)
    (project.path / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    return project


def check_job(job: Project, result: pytest.RunResult, *, summary: str) -> None:
    """The job has a summary that begins so, and both failures of the wrong kernel at their line."""
    assert (job.path / "summary.md").read_text().startswith(f"before\n**{summary}")
    commands = [line for line in result.outlines if line.startswith("::")]
    assert len(commands) == 2
    line = WRONG[: WRONG.index("def attention")].count("\n") + 1
    place = f"::error file=kernels/wrong.py,line={line},title=kernels/wrong.py%3A%3A{SHAPES[0]}::"
    assert any(command.startswith(f"{place}incorrect: ") for command in commands)


def test_files_of_every_format_hold_the_same_results(job: Project) -> None:
    """From several workers, and beside what a job of GitHub takes."""
    job.kernel("good.py", GOOD)
    files = ["--avo-bmf", "out/bmf.json", "--avo-gab", "out/gab.json", "--avo-markdown", "out/report.md"]
    result = job.run("--avo-bench", "kernels/good.py", "kernels/wrong.py", *files, *ROUNDS, "-n", "2", "-q")
    assert result.ret == 1
    timed = {f"kernels/good.py::{shape}" for shape in SHAPES}
    bencher = job.json("out/bmf.json")
    assert set(bencher) == timed
    for metrics in bencher.values():
        latency = metrics["latency"]
        assert 1_000 < latency["lower_value"] <= latency["value"] <= latency["upper_value"] < 1e9
    entries = json.loads((job.path / "out" / "gab.json").read_text())
    assert {entry["name"]: entry["unit"] for entry in entries} == dict.fromkeys(timed, "us")
    report = (job.path / "out" / "report.md").read_text()
    counted = "4 results of 2 kernels: 2 correct, 2 incorrect"
    assert report.startswith(f"**{counted}")
    assert "#### kernels/good.py on" in report
    check_job(job, result, summary=counted)


@pytest.mark.parametrize("option", ["--avo-bmf", "--avo-gab", "--avo-markdown"])
def test_a_path_that_cannot_be_written_is_a_usage_error_before_anything_runs(project: Project, option: str) -> None:
    (project.path / "taken").write_text("a file, not a folder")
    project.refuses("*taken*", "--avo-bench", option, "taken/out")


@pytest.mark.parametrize("reporting", [[], ["-p", "no:terminal"]], ids=" ".join)
def test_a_job_of_github_has_a_summary_and_annotations(job: Project, reporting: list[str]) -> None:
    result = job.run("--avo-bench", "kernels/wrong.py", *ROUNDS, *reporting)
    assert result.ret == 1
    check_job(job, result, summary="2 results of 1 kernel: 2 incorrect.**")


def test_elsewhere_nothing_is_annotated(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.kernel("wrong.py", WRONG)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    result = project.run("--avo-bench", "kernels/wrong.py", *ROUNDS)
    assert not [line for line in result.outlines if line.startswith("::")]


def test_every_item_has_junit_properties(project: Project) -> None:
    project.kernel("good.py", GOOD)
    project.kernel("wrong.py", WRONG)
    project.kernel("hopper.py", GOOD.replace('"cpu"', '"sm90"'))
    project.run("--avo-bench", *ROUNDS, "--junitxml=junit.xml", "kernels", "--deselect", "kernels/slow.py")
    cases = list(ElementTree.parse(project.path / "junit.xml").iter("testcase"))
    assert len(cases) == 6
    verdicts = set()
    for case in cases:
        properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        verdicts.add(properties["avo.verdict"])
    assert verdicts == {"correct", "incorrect", "unsupported"}
