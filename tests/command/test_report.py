"""`avo report`: pages of runs and of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.command.main import main
from tests import ROOT
from tests.evolution.world import World, proposal, source

pytest.importorskip("drawsvg")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    world.evolve(proposal(source(200), "twice as fast"))
    monkeypatch.chdir(world.kernel.parent)
    return world


def test_a_run_is_named_by_its_number_its_project_or_its_file(world: World, tmp_path: Path) -> None:
    for number, names in enumerate(
        ([], ["1"], [str(tmp_path)], [str(tmp_path / ".avo" / "lineage.sqlite3") + ":1", "1"])
    ):
        page = tmp_path / f"{number}.html"
        assert main(["report", *names, "-o", str(page)]) == 0
        assert page.read_text().count("<article") == max(1, len(names))


def test_a_run_that_is_not_there_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "7"]) == 1
    assert "expected a run 7" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 2
    assert "nowhere: expected a run" in capsys.readouterr().err


def test_two_files_of_results_stand_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = sorted(map(str, (ROOT / "results" / "nvidia-h100").rglob("*.json")))[:2]
    assert main(["report", *files]) == 0
    assert "first / second" in (tmp_path / "report.html").read_text()
    (tmp_path / "other.json").write_text("{}")
    assert main(["report", "other.json"]) == 1
    assert "other.json: expected results that --avo-json wrote" in capsys.readouterr().err
