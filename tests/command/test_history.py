"""Looking back at what a project's runs did: `avo runs`, `show`, `log`, `restore`, `compare`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.command.main import main
from pytest_avo.core.source import source_digest
from tests.evolution.world import World, proposal, source


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project with two runs; the command is given in a folder below it."""
    world = World(tmp_path)
    world.evolve(proposal(source(50), "smaller"), proposal(source(200), "larger tiles", lesson="less is more"))
    world.kernel.write_text(source(200))
    world.evolve(proposal(source(300), "larger still"))
    monkeypatch.chdir(world.kernel.parent)
    return world


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    return out + err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(capsys, *arguments, "--json"))
    return found


def test_runs_are_listed_with_what_they_came_to(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = said(capsys, "runs").splitlines()
    assert first.startswith("run 1  ")
    assert first.endswith("kernels/tiny.py  scripted  2 attempts, 1 promoted  2.000x the seed")
    assert second.endswith("1 attempt, 1 promoted  1.500x the seed")
    assert answer(capsys, "runs", "kernels/other.py")["runs"] == []


def test_a_version_is_shown_with_its_reasons_and_its_diff(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "show", "g0002", "--run", "1")
    assert "larger tiles" in shown
    assert "lesson: less is more" in shown
    assert "reason: (2.00x the seed) now in kernels/tiny.py" in shown
    assert shown.endswith(source(200) + "\n")
    diff = said(capsys, "show", "g0002", "--run", "1", "--diff")
    assert "-SPEED, FRESH, RESULT = 100, 100, 'ok'" in diff
    assert "+SPEED, FRESH, RESULT = 200, 200, 'ok'" in diff
    assert "expected seed, incumbent or one of" in said(capsys, "show", "g0009", status=1)
    assert "expected a run 7" in said(capsys, "show", "seed", "--run", "7", status=1)


def test_the_log_is_of_the_last_run_unless_another_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "log").startswith("run 2: kernels/tiny.py\ng0001  ".replace("  ", ""))
    assert len(said(capsys, "log", "--run", "1").splitlines()) == 4


def test_a_version_is_restored_in_the_form_that_the_file_has_and_over_nobodys_edit(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.kernel.write_bytes(world.kernel.read_bytes().replace(b"\n", b"\r\n"))
    assert "now seed of run 2" in said(capsys, "restore", "seed")
    assert world.kernel.read_bytes() == source(200).replace("\n", "\r\n").encode()
    world.kernel.write_text("def attention(): ...  # my own\n")
    assert "--force writes over it" in said(capsys, "restore", "g0001", status=1)
    assert "my own" in world.kernel.read_text()
    assert answer(capsys, "restore", "incumbent", "--run", "1", "--force")["digest"] == source_digest(source(200))
    assert world.kernel.read_text() == source(200)


def test_two_runs_are_compared(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "compare", "1", "2").splitlines()
    assert "attempts: 2 | 1" in lines
    assert "over_seed: 2 | 1.5" in lines
    assert "generations: 2 | 1" in lines
    assert "run 1: 1 promoted, 1 seed, 1 slower" in lines


def test_without_a_lineage_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no .avo/lineage.sqlite3 here or above" in said(capsys, "runs", status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["log", "-n", "0"],
        ["log", "-n", "-3"],
        ["log", "--run", "99999999999999999999"],
        ["show", "seed", "--run", "-1"],
        ["compare", "1", "two"],
    ],
)
def test_a_number_that_no_run_has_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f", from 1, got '{arguments[-1]}'" in capsys.readouterr().err


def test_a_damaged_lineage_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(world.folder / ".avo" / "lineage.sqlite3")) as connection:
        connection.execute("DROP TABLE event")
    for verb in (["runs"], ["log"], ["export", "--csv", "x.csv"]):
        assert "lineage.sqlite3: the lineage cannot be read: no such table: event" in said(capsys, *verb, status=1)


def test_a_current_folder_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for verb in (["runs"], ["status"], ["log"], ["export", "--csv", "x.csv"]):
        assert "the current folder cannot be read: No such file" in said(capsys, *verb, status=2)
