"""--avo-serve, --tx spool=DIR and --avo-submit: evaluation by way of a folder, as users do it."""

from __future__ import annotations

import json
import sys

import pytest

from pytest_avo import __version__
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.notes import Introduction
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View, latest_run
from tests.plugin.conftest import GENTLE, GOOD, PLUGINS, SHAPES, Project
from tests.plugin.test_option_resume import wait_for

SPOOL = ("--tx", "spool=spool")
SUBMIT = " ".join([sys.executable, "-m", "pytest", *PLUGINS, "--avo-serve", "spool"])

LINGERS_LESS = """
from functools import partial
from pytest_avo.session.modes import serve
serve.Server = partial(serve.Server, linger_s=1.0)
"""
SAYS_WHAT_IT_IMPORTED = """
import json, sys
HEAVY = {'openai', 'optuna', 'torch', 'triton'}
def pytest_unconfigure(): print(json.dumps(sorted(HEAVY & sys.modules.keys())))
"""


def introduced(project: Project) -> None:
    """The project's spool as one that a machine like this has served."""
    spool, kind = SpoolFolder(project.path / "spool"), CpuDevice().fingerprint()
    spool.make()
    spool.publish(
        "devices", f"{kind.kind}-{__version__}.json", Introduction(__version__, "box", kind, (), "landlock 7")
    )


@pytest.mark.usefixtures("here")
def test_a_spool_that_nobody_served_is_refused_before_anything_starts(project: Project) -> None:
    result = project.evolve(*SPOOL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --tx spool=*/spool: expected to find there what kind of device it has: run*"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--avo-selftest", *SPOOL], "*--tx spool=*: does not go with --avo-selftest"),
        (["--avo-serve", "kernels/slow.py"], "*slow.py: cannot be a spool: *"),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_get_one_sentence(project: Project, arguments: list[str], expected: str) -> None:
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([expected])


@pytest.mark.long
def test_an_evolution_asks_by_way_of_a_folder_and_goes_on_where_it_was_killed(project: Project) -> None:
    project.kernel("slow.py", GENTLE.replace("REPEAT * 1e-4", "REPEAT * 1e-5"))  # no verdict is looked at
    project.script("80", "10")
    introduced(project)
    arguments = project.evolve_arguments("--generations", "2", *SPOOL)
    requests = project.path / "spool" / "requests"
    process = project.start(*arguments)
    wait_for(lambda: requests.is_dir() and any(requests.iterdir()), process)
    process.kill()
    process.communicate()
    (project.path / "conftest.py").write_text(f"{SAYS_WHAT_IT_IMPORTED}\n{LINGERS_LESS}")
    served = project.run("--avo-serve", "spool", "-s")
    assert served.ret == 0
    served.stdout.fnmatch_lines(["avo: answered 1 request, 2 evaluations; ended: nothing is left; 0 left"])
    assert json.loads(served.outlines[-1]) == [], "to serve takes no model, no optimiser, and torch in a worker alone"
    (project.path / "conftest.py").write_text(LINGERS_LESS)
    result = project.evolve("--generations", "2", *SPOOL, "--avo-resume", "--avo-submit", SUBMIT)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["--avo-submit: started *", "generation 2: * [[]*"]
    )  # on a busy machine not certainly promoted
    run = latest_run(project.path / ".avo" / FILE, "kernels/slow.py")
    assert run is not None
    with View(project.path / ".avo" / FILE, run.id) as view:
        evaluated = [(a.id, x.evaluation.shape) for a in view.attempts() for x in view.evaluations(a.id, "screen")]
    assert len(evaluated) == len(set(evaluated)) == 6
    assert list(requests.iterdir()) == []


def test_a_bench_asks_for_all_at_once(project: Project) -> None:
    project.kernel("slow.py", GOOD)
    (project.path / "conftest.py").write_text(LINGERS_LESS)
    result = project.run(
        "--avo-bench", *SPOOL, "--avo-submit", SUBMIT, "--avo-json", "out.json", "--avo-max-rounds", "3"
    )
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    assert [each["shape"] for each in project.json()["avo"]["results"]] == list(SHAPES)


def test_a_command_that_serves_nothing_ends_the_wait(project: Project) -> None:
    (project.path / "conftest.py").write_text("from pytest_avo.evaluation.spool import jobs\njobs.PAUSE_S = 0.1\n")
    introduced(project)
    result = project.run("--avo-bench", *SPOOL, "--avo-submit", "echo no such partition; exit 1", "-x")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*ended with status 1 and nothing was answered, it said: no such partition; so did*"])
