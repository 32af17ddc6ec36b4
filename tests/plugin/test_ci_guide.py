"""The commands of docs/how-to/ci.md run as they stand there, in a project like the guide's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.plugin.conftest import GOOD, SHAPES, SUITE, quick_and_scripted
from tests.plugin.test_option_compile import ONE

GUIDE = (ROOT / "docs" / "how-to" / "ci.md").read_text(encoding="utf-8")
WORKFLOWS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def commands() -> Iterator[str]:
    """What the steps of the guide's workflows run."""
    for workflow in WORKFLOWS:
        yield from re.findall(r"^ *(?:- )?run: (.+)$", workflow, re.MULTILINE)


RUNS = [command for command in commands() if "pytest " in command]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a kernel per target, the CPU's changed since origin/main."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("kernels/cpu", "kernels/sm90", "shapes"):
        (folder / name).mkdir(parents=True)
    (folder / "shapes" / "tiny.toml").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "kernels" / "cpu" / "good.py").write_text(GOOD)
    naive = (ROOT / "kernels" / "sm90" / "naive.py").read_text()
    (folder / "shapes" / "one.toml").write_text(ONE)
    claim = re.sub(r'("shapes": )\[.*?\]', r'\1["one"]', naive, count=1)
    (folder / "kernels" / "sm90" / "naive.py").write_text(claim)
    git = ["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for command in (
        ["init", "--quiet", "--initial-branch", "topic"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "main"],
        ["update-ref", "refs/remotes/origin/main", "HEAD"],
    ):
        subprocess.run([*git, *command], cwd=folder, check=True)
    (folder / "kernels" / "cpu" / "good.py").write_text(GOOD + "\nCHANGED = True\n")
    return folder


def test_the_guide_has_the_steps_that_it_promises() -> None:
    text = "\n".join(RUNS)
    for step in ("--avo-compile kernels/sm90", "--avo-bench kernels/cpu", "--avo-compare git:origin/main"):
        assert step in text
    assert len(RUNS) == 5


@pytest.mark.parametrize("command", RUNS)
def test_a_command_of_the_guide_runs_as_written(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program, *arguments = shlex.split(command)
    assert program.rpartition("/")[2] == "pytest"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=project,
        env=quick_and_scripted(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    named = [argument for argument in arguments if re.search(r"\.(json|md|xml)$", argument)]
    for name in named:
        assert (project / name.rpartition("=")[2]).is_file()
    if "--avo-compare" in arguments and "kernels/cpu" in arguments:
        assert f"{len(SHAPES)} passed" in ended.stdout
