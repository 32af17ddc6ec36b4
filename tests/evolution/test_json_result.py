"""An evolution in files of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_avo.core.source import source_digest
from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.evolution.conclusion import summary
from pytest_avo.evolution.json_result import json_result
from pytest_avo.report.catalogue import FORMATS
from pytest_avo.report.results import Results
from tests.evolution.world import Device, Operator, World, proposal, source


@pytest.fixture
def found(tmp_path: Path) -> Results:
    """Of an evolution with one attempt that was promoted and one that was not."""
    world = World(tmp_path, {"generations": 2})
    steps = {
        (1, 0): proposal(source(50), "smaller | tiles", tokens_in=5, tokens_out=2),
        (2, 0): proposal(source(200), "larger tiles", predicted={"geomean": 1.5}, cost=0.25),
    }
    with world.loop(Operator(steps)) as loop:
        loop.run()
        fingerprint = Device().fingerprint()
        view, total = loop.campaign.view, summary(loop.campaign, wall_s=3.0, resume_hint="")
        found = json_result(Chronicle(view).facts(), view.run, total)
        return Results(loop.final, (), fingerprint, tmp_path, evolution=found)


def text(found: Results, name: str) -> str:
    return next(each for each in FORMATS if each.name == name).text(found)


def test_json_holds_the_run_its_attempts_and_totals(found: Results) -> None:
    avo = json.loads(text(found, "json"))["avo"]
    evolution = avo["evolution"]
    assert evolution["run"]["kernel"] == "kernels/tiny.py"
    assert evolution["run"]["settings"]["max-rounds"] == "6"
    seed, slower, promoted = evolution["attempts"]
    assert (seed["name"], seed["parent"], seed["status"]) == ("seed", None, "seed")
    assert (slower["status"], slower["tokens_in"], slower["parent"]) == ("slower", 5, source_digest(source(100)))
    assert promoted["name"] == "g0002", "as `avo show` takes it"
    assert (promoted["generation"], promoted["digest"]) == (2, source_digest(source(200)))
    assert promoted["predicted"] == {"geomean": 1.5}
    assert promoted["measured"][0] == pytest.approx(2.0, rel=0.01)
    assert promoted["over_seed"] == pytest.approx(2.0, rel=0.01)
    totals = evolution["totals"]
    assert (totals["attempts"], totals["promoted"], totals["not_promoted"]) == (2, 1, {"slower": 1})
    assert totals["best_over_seed"][0] == pytest.approx(2.0, rel=0.01)
    assert (totals["tokens_in"], totals["cost"], totals["wall_s"]) == (5, 0.25, 3.0)
    assert len(avo["results"]) == 2, "the best kernel's shapes, and no mean over candidates"


def test_markdown_lists_the_attempts(found: Results) -> None:
    lines = text(found, "markdown").splitlines()
    assert lines[0] == "**kernels/tiny.py, run 1: 2 attempts, 1 promoted, best 2.000 \\[2.000, 2.000\\] vs the seed**"
    promoted = next(line for line in lines if "promoted |" in line.replace("  ", ""))
    assert "larger tiles" in promoted
    assert "geomean 1.500" in promoted
    assert "smaller \\| tiles" in text(found, "markdown")
