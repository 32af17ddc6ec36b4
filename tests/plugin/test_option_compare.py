"""--avo-compare git:REF: kernels beside their source at a ref, measured in turns."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import GOOD, SHAPES, SLOW, Project


def repeated(times: int) -> str:
    """A kernel that does its work so many times; that of the project does it 40 times."""
    values = sorted({1, 39, 40, 80, 400, times})
    return SLOW.replace("REPEAT = 40", f"REPEAT = {times}").replace("[1, 39, 40, 80, 400]", str(values))


@pytest.fixture
def committed(project: Project) -> Project:
    project.kernel("good.py", GOOD)
    project.commit()
    return project


@pytest.mark.usefixtures("metered")
def test_says_what_is_slower_or_has_no_baseline_and_skips_what_is_unchanged(project: Project) -> None:
    project.kernel("broken.py", GOOD.replace("import torch", "raise OSError"))
    project.kernel("good.py", GOOD)
    project.kernel("slow.py", repeated(2))
    project.commit()
    project.kernel("broken.py", GOOD)
    project.kernel("slow.py", repeated(20))
    result = project.compare("-v", "-rs", "--avo-max-rounds", "5")
    result.assert_outcomes(passed=4, skipped=2)
    assert result.ret == 0, "without --avo-compare-fail it only reports"
    result.stdout.fnmatch_lines(
        [
            "avo: *; compared with git:main (????????); *",
            "kernels/good.py::* SKIPPED (unchanged*",
            f"kernels/slow.py::{SHAPES[0]} SLOWER*",
            "kernels/slow.py: geomean vs baseline 0.*2 slower",
            f"slower  {SHAPES[0]}: *% slower than git:main, 95% interval * to *%",
            "SKIPPED [[]2[]] *: unchanged since git:main",
        ]
    )
    result.stdout.fnmatch_lines([f"no baseline  {SHAPES[0]}: git:main fails here: *OSError*"])


@pytest.mark.usefixtures("scripted")
def test_an_unchanged_kernel_is_measured_when_the_user_names_it(committed: Project) -> None:
    result = committed.compare("kernels/good.py", "--avo-json", "out.json")
    result.assert_outcomes(passed=2)
    assert {row["kernel"] for row in committed.json()["avo"]["results"]} == {"kernels/good.py"}
    assert set(committed.json()["avo"]["geomean"]) == {"baseline"}


@pytest.mark.usefixtures("scripted")
def test_everything_unchanged_is_a_run_without_failures(committed: Project) -> None:
    result = committed.compare("--avo-compare-fail", "3%")
    result.assert_outcomes(skipped=4)
    assert result.ret == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--avo-bench", "--avo-compare", "git:nosuch"], "--avo-compare git:nosuch: expected a commit, branch or tag*"),
        (
            ["--avo-evolve", "--avo-compare", "git:main"],
            "--avo-compare: goes with --avo-bench or *, not with --avo-evolve",
        ),
    ],
)
def test_a_baseline_that_cannot_be_is_a_usage_error(committed: Project, arguments: list[str], message: str) -> None:
    committed.refuses(message, *arguments)
