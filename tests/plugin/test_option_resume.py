"""--avo-resume: a run that was interrupted, or killed at any instant, goes on and repeats nothing."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from pytest_avo.core.kernel import read_kernel
from pytest_avo.evaluation.devices import cpu
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View, latest_run
from tests.plugin.conftest import SLOW, Project, descendants
from tests.plugin.scripted_pool import EACH_S

WORDS = ("80", "wrong", "39", "1", "syntax")


def counted(project: Project) -> dict[tuple[int, str], int]:
    """Evaluations in the lineage per attempt and purpose; empty while there is no lineage."""
    path = project.path / ".avo" / FILE
    if not path.is_file():
        return {}
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        try:
            rows = connection.execute("SELECT attempt, purpose, count(*) FROM evaluation GROUP BY 1, 2").fetchall()
        except sqlite3.OperationalError:
            return {}
    return {(attempt, purpose): number for attempt, purpose, number in rows}


def wait_for(condition: object, process: object, limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and process.poll() is None:  # type: ignore[operator, attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(folder: Path, limit_s: float = 180) -> bool:
    deadline = time.monotonic() + limit_s
    while descendants(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.usefixtures("scripted")
def test_killed_at_random_moments_it_loses_and_repeats_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run alone; tests/test_crash.py kills workers, fork servers and kernels beside it."""
    monkeypatch.setenv(EACH_S, "0.1")
    project.script(*WORDS)
    kernel = project.path / "kernels" / "slow.py"
    generator = random.Random(7)
    resume: list[str] = []
    for _ in range(3):
        before = counted(project)
        process = project.start(*project.evolve_arguments("--generations", str(len(WORDS)), *resume))
        wait_for(lambda: counted(project) != before, process)  # noqa: B023 - called before `before` changes
        time.sleep(generator.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert gone(project.path), "no process outlives the run"
        assert counted(project).items() >= before.items(), "no finished evaluation is lost"
        assert read_kernel(kernel).fault == "", "the kernel file is never torn"
        resume = ["--avo-resume"]
    monkeypatch.delenv(EACH_S)
    result = project.evolve("--generations", str(len(WORDS)), "--avo-resume")
    assert result.ret == 0
    assert set(counted(project).values()) == {2}, "every shape once per attempt and purpose"
    path = project.path / ".avo" / FILE
    run = latest_run(path, "kernels/slow.py")
    assert run is not None
    assert run.id == 1
    with View(path, run.id) as view:
        assert [attempt.generation for attempt in view.attempts()] == list(range(len(WORDS) + 1))
        assert len(view.outcomes()) == len(WORDS) + 1
        incumbent = view.incumbent()
        assert incumbent is not None
        assert incumbent.digest == read_kernel(kernel).digest


def test_ctrl_c_ends_within_a_second_and_says_how_to_resume(project: Project) -> None:
    project.script("sleep")
    process = project.start(*project.evolve_arguments("--generations", "2"))
    wait_for((project.path / "asleep").exists, process)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=180)
    # Aim: one second. A busy machine needs longer; the operator sleeps for ten minutes.
    assert time.monotonic() - start < 180, output
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    hint = next(line for line in output.splitlines() if line.startswith("resume with: pytest "))
    assert "--avo-evolve kernels/slow.py --avo-operator scripted:Scripted" in hint
    assert hint.endswith("--generations 2 --avo-resume")
    assert gone(project.path)


@pytest.mark.usefixtures("scripted")
@pytest.mark.usefixtures("scripted")
def test_threads_go_on_to_wait_for_each_other_as_they_did(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_found_idle", lambda cores: True)
    project.script("39", "1")
    assert project.evolve("--generations", "1").ret == 0
    monkeypatch.setattr(cpu, "_found_idle", lambda cores: False)
    assert project.evolve("--generations", "2", "--avo-resume").ret == 0
    run = latest_run(project.path / ".avo" / FILE, "kernels/slow.py")
    assert run is not None
    with View(project.path / ".avo" / FILE, run.id) as view:
        found = [x.evaluation.timing for each in view.attempts() for x in view.evaluations(each.id, "screen")]
        assert len(view.attempts()) == 3
    assert {timing.spins for timing in found if timing is not None} == {True}


def test_a_run_that_ended_with_a_bad_seed_ends_so_again(project: Project) -> None:
    project.script("80")
    project.kernel("slow.py", SLOW.replace("return _once(", "return 2 * _once("))
    assert project.evolve("--generations", "1").ret == pytest.ExitCode.TESTS_FAILED
    result = project.evolve("--generations", "1", "--avo-resume")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the seed is no good, nothing to evolve from: incorrect: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.usefixtures("scripted")
def test_nothing_to_resume_is_a_usage_error(project: Project) -> None:
    project.script("1")
    result = project.evolve("--avo-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --avo-resume: expected a run of kernels/slow.py in *, there is none"])


@pytest.mark.usefixtures("scripted")
def test_an_edited_kernel_is_not_overwritten(project: Project) -> None:
    project.script("80")
    project.evolve("--generations", "1")
    project.kernel("slow.py", SLOW + "\n# mine\n")
    result = project.evolve("--generations", "2", "--avo-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *slow.py: was edited since this run began*"])
    assert (project.path / "kernels" / "slow.py").read_text().endswith("# mine\n")


@pytest.mark.usefixtures("scripted")
def test_other_shapes_are_not_mixed(project: Project) -> None:
    project.script("80")
    project.evolve("--generations", "1")
    result = project.evolve("--generations", "2", "--avo-resume", "-k", "causal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --avo-resume: run 1 evolved on other shapes: *"])
