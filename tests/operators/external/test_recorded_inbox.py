from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_avo.command.main import main
from pytest_avo.lineage.view import View
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.external.inbox import InboxOperator
from tests.evolution.world import World, proposal, source


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A run of a winner, a step that brought no candidate, and a slower kernel."""
    world = World(tmp_path / "project")
    steps = (
        proposal(source(200), "twice as fast", predicted={"geomean": 1.9}),
        proposal(source(300), "nothing", failed="no answer"),
        proposal(source(90), "slower"),
    )
    assert world.evolve(*steps) == ["seed", "promoted", "failed", "slower"]
    monkeypatch.chdir(world.folder)
    return world


def test_what_was_proposed_is_judged_again_in_its_order(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "1", "--inbox", "again"]) == 0
    assert capsys.readouterr().out.startswith("again: 2 candidates of Run 1")
    folder = world.folder / "again"
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["0001-g0001.json", "0001-g0001.py", "0002-g0003.json", "0002-g0003.py", "END", "seed.txt"]
    assert (folder / "seed.txt").read_text() == source(100)
    os.utime(folder / "0001-g0001.py")  # a copy keeps no times
    os.utime(folder / "0002-g0003.py", (0, 0))  # nobody writes to it any more, and its turn is not yet
    inbox = InboxOperator(ExternalSettings(inbox=folder))
    again = World(tmp_path / "elsewhere")
    assert again.evolve(inbox.propose, inbox.propose, inbox.propose) == ["seed", "promoted", "slower"]
    with View(again.folder / ".avo" / "lineage.sqlite3", 1) as view:
        first, second = view.attempts()[1:]
    assert (first.hypothesis, first.predicted, second.hypothesis) == ("twice as fast", {"geomean": 1.9}, "slower")


def test_a_folder_that_holds_something_is_left_as_it_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--inbox", "kernels"]) == 1
    assert "kernels: expected a folder that is empty or not there yet" in capsys.readouterr().err
    assert [path.name for path in (world.folder / "kernels").iterdir()] == ["tiny.py"]
