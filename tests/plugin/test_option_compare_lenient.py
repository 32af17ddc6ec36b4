"""--avo-compare-lenient: shapes that the baseline lacks are listed, not failed."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import GOOD, SHAPES, Project

pytestmark = pytest.mark.usefixtures("scripted")

LIMIT = ("--avo-compare-fail", "50%", "--avo-max-rounds", "3")


@pytest.mark.parametrize(("options", "status"), [((), 1), (("--avo-compare-lenient",), 0)])
def test_a_new_kernel_has_no_baseline(project: Project, options: tuple[str, ...], status: int) -> None:
    project.commit()
    project.kernel("good.py", GOOD)
    result = project.compare(*LIMIT, *options, "--avo-json", "out.json")
    assert result.ret == status
    result.assert_outcomes(**{"failed" if status else "passed": 2}, skipped=2)
    result.stdout.fnmatch_lines([f"no baseline  {shape}: git:main has no kernels/good.py" for shape in SHAPES])
    assert {row["verdict"] for row in project.json()["avo"]["results"]} == {"correct"}


def test_alone_it_is_a_usage_error(project: Project) -> None:
    project.refuses("--avo-compare-lenient: expected --avo-compare too", "--avo-bench", "--avo-compare-lenient")
