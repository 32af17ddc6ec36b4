"""The commands of docs/how-to/ci.md run as they stand there, in a project like the guide's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from pytest_avo.session.modes import compilation
from tests import ROOT
from tests.plugin.conftest import GOOD, SHAPES, Project
from tests.plugin.test_option_compile import ONE
from tests.report.terminal.test_compiled import LAUNCH

GUIDE = (ROOT / "docs" / "how-to" / "ci.md").read_text(encoding="utf-8")
WORKFLOWS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def commands() -> Iterator[str]:
    """What the steps of the guide's workflows run."""
    for workflow in WORKFLOWS:
        yield from re.findall(r"^ *(?:- )?run: (.+)$", workflow, re.MULTILINE)


RUNS = [command for command in commands() if "pytest " in command]


@pytest.fixture
def guided(scripted: Project) -> Project:
    """A clone with a kernel per target, the CPU's changed since origin/main."""
    scripted.kernel("cpu/good.py", GOOD)
    (scripted.path / "kernels" / "slow.py").unlink()
    naive = (ROOT / "kernels" / "sm90" / "naive.py").read_text()
    (scripted.path / "shapes" / "one.toml").write_text(ONE)
    scripted.kernel("sm90/naive.py", re.sub(r'("shapes": )\[.*?\]', r'\1["one"]', naive, count=1))
    scripted.commit()
    scripted.git("update-ref", "refs/remotes/origin/main", "HEAD")
    scripted.kernel("cpu/good.py", GOOD + "\nCHANGED = True\n")
    return scripted


def test_the_guide_has_the_steps_that_it_promises() -> None:
    text = "\n".join(RUNS)
    for step in ("--avo-compile kernels/sm90", "--avo-bench kernels/cpu", "--avo-compare git:origin/main"):
        assert step in text
    assert len(RUNS) == 5


@pytest.mark.parametrize("command", RUNS)
def test_a_command_of_the_guide_runs_as_written(command: str, guided: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    assert program.rpartition("/")[2] == "pytest"
    monkeypatch.setattr(compilation, "compiled_records", lambda *_, **__: [LAUNCH])
    ended = guided.run(*arguments)
    assert ended.ret == 0, ended.stdout.str() + ended.stderr.str()
    named = [argument for argument in arguments if re.search(r"\.(json|md|xml)$", argument)]
    for name in named:
        assert (guided.path / name.rpartition("=")[2]).is_file()
    if "-n" in arguments:
        ended.stdout.fnmatch_lines(["created: 1/1 worker"])
    if "--avo-compare" in arguments and "kernels/cpu" in arguments:
        ended.assert_outcomes(passed=len(SHAPES))
