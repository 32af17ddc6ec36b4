"""-n of pytest-xdist: a bench over several workers gives what one process gives, in the same order."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import GOOD, SCRIPTED_PLUGINS, SHAPES, WRONG, Project

pytest.importorskip("xdist")
BENCH = ("--avo-bench", "--avo-max-rounds", "3", "--avo-json", "out.json")


def results(project: Project) -> list[tuple[str, str, str]]:
    return [(row["kernel"], row["shape"], row["verdict"]) for row in project.json()["avo"]["results"]]


def table(result: pytest.RunResult) -> list[str]:
    """Headlines less their figures, and the first column of every row."""
    lines = result.outlines[result.outlines.index(next(x for x in result.outlines if x.startswith("shape "))) - 1 :]
    return [line.split()[0] for line in lines if line.startswith(("kernels/", "b1-"))]


def test_results_and_their_order_are_those_of_one_process(project: Project) -> None:
    # The suite's folder is not where the kernels are: workers must fall back on avo_kernels as the controller does.
    project.pytester.makeini("[pytest]\ntestpaths = tests\n")
    (project.path / "tests").mkdir()
    (project.path / "kernels" / "slow.py").unlink()
    for name, source in {"a.py": GOOD, "b.py": WRONG}.items():
        project.kernel(name, source)
    two = project.run(*BENCH, "-n", "2")
    together = results(project)
    project.plugins = SCRIPTED_PLUGINS
    one = project.run(*BENCH)
    assert two.ret == one.ret == 1
    assert results(project) == together
    assert [(kernel, shape) for kernel, shape, _ in together] == [
        (f"kernels/{name}.py", shape) for name in ("a", "b") for shape in SHAPES
    ]
    assert table(two) == table(one)
    two.stdout.fnmatch_lines(["created: 2/2 workers"])
    two.assert_outcomes(passed=2, failed=2)


@pytest.mark.usefixtures("scripted")
def test_auto_is_a_worker_for_every_device(project: Project) -> None:
    result = project.run(*BENCH, "-n", "auto", "kernels/slow.py")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["created: 1/1 worker"])


@pytest.mark.usefixtures("scripted")
def test_a_number_that_the_environment_gives_goes_before_auto(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "3")
    project.pytester.makepyfile("def test_nothing(): pass")
    project.run("-n", "auto").stdout.fnmatch_lines(["created: 3/3 workers"])
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "2")
    project.run(*BENCH, "-n", "auto", "kernels/slow.py").stdout.fnmatch_lines(["created: 2/2 workers"])
