"""A run as a table, read back by what people analyse with."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_avo.command.main import main
from pytest_avo.report.files.run_table import COLUMNS, TYPES, as_csv
from tests import ROOT
from tests.evolution.world import SHAPES, World, proposal, source

pytestmark = pytest.mark.skipif(find_spec("pandas") is None, reason="needs pandas")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    world.evolve(
        proposal(source(200), 'twice, "really"\nas fast', predicted={"geomean": 1.5}), proposal(source(150), "x")
    )
    monkeypatch.chdir(tmp_path)
    return world


def test_every_format_is_read_back_with_the_same_rows(world: World, tmp_path: Path) -> None:
    import pandas  # which takes a second

    assert main(["export", "1", "--csv", "a.csv", "--jsonl", "a.jsonl", "--parquet", "a.parquet"]) == 0
    tables = [pandas.read_csv("a.csv"), pandas.read_json("a.jsonl", lines=True), pandas.read_parquet("a.parquet")]
    for table in tables:
        assert tuple(table.columns) == COLUMNS
        assert len(table) == 3 * len(SHAPES)
        fast = table[table["version"] == "g0001"]
        assert list(fast["shape"]) == [shape.id for shape in SHAPES]
        assert set(fast["status"]) == {"promoted"}
        assert fast["gain"].iloc[0] == pytest.approx(2.0, rel=0.01)
        assert fast["hypothesis"].iloc[0] == 'twice, "really"\nas fast'
        assert table[table["version"] == "seed"]["shape_gain"].isna().all()
    assert str(tables[2]["parent"].dtype) in ("float64", "Int64", "int64[pyarrow]")


def test_without_a_format_it_is_a_usage_error(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == 2
    assert "expected --csv FILE" in capsys.readouterr().err


def test_the_columns_are_documented_and_no_other() -> None:
    import pandas

    assert tuple(TYPES) == COLUMNS
    assert pandas.read_csv(io.StringIO(as_csv([]))).columns.tolist() == list(COLUMNS)
    text = (ROOT / "docs" / "reference" / "export.md").read_text(encoding="utf-8")
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == list(COLUMNS)
