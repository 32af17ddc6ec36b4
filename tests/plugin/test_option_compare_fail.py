"""--avo-compare-fail: what fails, with which reason, and the exit status whatever is reported."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.plugin.conftest import GOOD, SHAPES, Project
from tests.plugin.test_option_compare import repeated

ONE = ("--avo-compare-fail", "30%", "--avo-max-rounds", "6")
REPORTING = [
    ["-q"],
    ["-v"],
    ["--no-summary"],
    ["--junitxml=junit.xml"],
    ["-p", "no:terminal"],
]
"""With -n 2 too: test_a_geomean_is_measured_by_the_worker_that_judges_it."""


@pytest.fixture
def slowed(project: Project) -> Project:
    """A kernel that takes ten times the time of its commit."""
    project.commit()
    project.kernel("slow.py", repeated(400))
    return project


@pytest.mark.parametrize("reporting", REPORTING, ids=" ".join)
@pytest.mark.usefixtures("scripted")
def test_a_slowdown_is_exit_status_1_whatever_is_reported(slowed: Project, reporting: list[str]) -> None:
    result = slowed.compare(*ONE, "-k", SHAPES[0], *reporting)
    assert result.ret == 1
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("reporting", [["-q"], ["--no-summary"], ["-n", "2"], ["-p", "no:terminal"]], ids=" ".join)
@pytest.mark.usefixtures("scripted")
def test_an_unchanged_kernel_is_exit_status_0(project: Project, reporting: list[str]) -> None:
    project.commit()
    assert project.compare("kernels/slow.py", *ONE, "-k", SHAPES[0], *reporting).ret == 0


@pytest.mark.usefixtures("scripted")
def test_the_failing_item_has_a_short_reason_and_no_frames(slowed: Project) -> None:
    result = slowed.compare(*ONE, "--junitxml=junit.xml", "-k", SHAPES[0])
    result.assert_outcomes(failed=1)
    (case,) = ElementTree.parse(slowed.path / "junit.xml").iter("testcase")
    (failure,) = case.iter("failure")
    assert failure.text is not None
    reason = failure.text.strip()
    assert reason.endswith("%, confirmed")
    assert " slower than git:main, 95% interval " in reason
    assert "\n" not in reason
    assert "pytest_avo/" not in result.stdout.str()
    properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
    assert properties["avo.verdict"] == "slower"
    assert properties["avo.reason"] == reason
    assert 0.03 < float(properties["avo.ratio.baseline"] or 0) < 0.3


@pytest.mark.usefixtures("scripted")
def test_a_geomean_has_an_item_of_its_own(slowed: Project) -> None:
    slowed.kernel("good.py", GOOD)
    slowed.git("add", "--all")
    slowed.git("commit", "--quiet", "--message", "again", "--", "kernels/good.py")
    limits = ["--avo-compare-fail", "geomean:20%", "--avo-max-rounds", "6"]
    result = slowed.compare(*limits, "-v")
    result.assert_outcomes(passed=2, failed=1, skipped=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "kernels/good.py::geomean SKIPPED (unchanged*",
            "kernels/slow.py::geomean FAILED*",
            "slower  geomean: *% slower than git:main, 95% interval * to *%, confirmed",
        ],
    )


@pytest.mark.usefixtures("scripted")
def test_a_geomean_is_measured_by_the_worker_that_judges_it(slowed: Project) -> None:
    limits = ["--avo-compare-fail", "geomean:20%", "--avo-compare-fail", "30%", "--avo-max-rounds", "6"]
    result = slowed.compare(*limits, "-q", "-n", "2", "--no-summary", "--junitxml=junit.xml")
    result.assert_outcomes(failed=3)
    assert result.ret == 1
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    cases = {case.get("name"): case for case in ElementTree.parse(slowed.path / "junit.xml").iter("testcase")}
    assert set(cases) == {*SHAPES, "geomean"}
    assert {e.get("name"): e.get("value") for e in cases["geomean"].iter("property")}["avo.verdict"] == "slower"


@pytest.mark.usefixtures("scripted")
def test_suites_and_kernels_have_limits_of_their_own(slowed: Project) -> None:
    slowed.pytester.makeini("[pytest]\navo_compare_fail =\n    30%\n    tiny: 900%\n")
    assert slowed.compare("--avo-max-rounds", "6").ret == 0
    slowed.pytester.makeini("[pytest]\navo_compare_fail =\n    tiny: 900%\n    kernels/s*.py: 30%\n")
    assert slowed.compare("--avo-max-rounds", "6", "-x").ret == 1


@pytest.mark.parametrize(
    ("ini", "arguments", "message"),
    [
        ("", ["--avo-compare-fail", "slow"], "--avo-compare-fail: 'slow': expected PERCENT, median:PERCENT or *"),
        ("nosuch: 3%", [], "ini key avo_compare_fail: 'nosuch': expected a kernel's path or one of the suites *tiny*"),
    ],
)
def test_a_wrong_limit_is_a_usage_error(project: Project, ini: str, arguments: list[str], message: str) -> None:
    project.pytester.makeini(f"[pytest]\navo_compare_fail =\n    {ini}\n")
    project.commit()
    project.refuses(message, "--avo-bench", "--avo-compare", "git:main", *arguments)


def test_a_limit_without_a_baseline_is_a_usage_error(project: Project) -> None:
    project.refuses("--avo-compare-fail: expected --avo-compare too", "--avo-bench", "--avo-compare-fail", "3%")
