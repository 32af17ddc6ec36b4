"""-n of pytest-xdist: a bench over several workers gives what one process gives, in the same order."""

from __future__ import annotations

import pytest

from pytest_avo.evaluation.devices.local import devices
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
    assert len({row["spins"] for row in project.json()["avo"]["results"] if row["spins"] is not None}) == 1
    project.plugins, project.here = SCRIPTED_PLUGINS, True
    one = project.run(*BENCH)
    assert two.ret == one.ret == 1
    assert results(project) == together
    assert [(kernel, shape) for kernel, shape, _ in together] == [
        (f"kernels/{name}.py", shape) for name in ("a", "b") for shape in SHAPES
    ]
    assert table(two) == table(one)
    two.stdout.fnmatch_lines(["created: 2/2 workers"])
    two.assert_outcomes(passed=2, failed=2)


def test_auto_is_a_worker_for_every_device_unless_the_environment_gives_a_number(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That xdist asks for it is seen in tests/plugin/test_ci_guide.py."""

    def workers(*arguments: str) -> object:
        config = project.pytester.parseconfig("-p", "xdist", *arguments)
        return config.hook.pytest_xdist_auto_num_workers(config=config)

    assert workers(*BENCH) == workers("--avo-aa") == len(devices()) == 1
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "3")
    assert workers() == 3
    assert workers(*BENCH) == 3
