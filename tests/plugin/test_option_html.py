"""--avo-html and --avo-live: pages of a bench and of an evolution."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import GOOD, SHAPES, SLOW, WRONG, Project

pytestmark = pytest.mark.usefixtures("scripted")
ROUNDS = ("--avo-max-rounds", "3")


def test_a_bench_leaves_a_page(project: Project) -> None:
    project.kernel("good.py", GOOD)
    project.kernel("wrong.py", WRONG)
    result = project.run("--avo-bench", "kernels/good.py", "kernels/wrong.py", "--avo-html", "out/page.html", *ROUNDS)
    assert result.ret == 1
    page = (project.path / "out" / "page.html").read_text()
    assert all(shape in page for shape in SHAPES)
    assert "Beside its peers" in page
    assert "incorrect" in page


def test_an_evolution_is_served_while_it_goes_on_and_leaves_a_page(project: Project) -> None:
    project.kernel("good.py", SLOW)
    options = ["--generations", "1", "--avo-html", "page.html", "--avo-live", *ROUNDS]
    result = project.run("--avo-evolve", "kernels/good.py", *options)
    result.stdout.fnmatch_lines(["*live page: http://127.0.0.1:*/"])
    page = (project.path / "page.html").read_text()
    assert "Trajectory" in page
    assert "connect-src" not in page, "the file asks nobody"


def test_a_page_that_cannot_be_written_is_told_before_anything_runs(project: Project) -> None:
    (project.path / "taken").write_text("a file, not a folder")
    project.refuses("*taken*", "--avo-evolve", "--avo-html", "taken/page.html")
