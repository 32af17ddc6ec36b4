"""--avo-screen: a part of the shapes decides what is worth confirming, and all of them confirm it."""

from __future__ import annotations

import pytest

from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View
from tests.plugin.conftest import SHAPES, SLOW, Project

pytestmark = pytest.mark.usefixtures("scripted")


def test_a_winner_that_was_screened_on_one_shape_is_confirmed_on_all(project: Project) -> None:
    project.kernel("slow.py", SLOW)
    asked = ["--avo-evolve", "kernels/slow.py", "--avo-peers", "none", "--avo-max-rounds", "6", "--avo-seed", "1"]
    result = project.run(*asked, "--generations", "2", "--avo-accept", "match", "--avo-screen", "*-causal-*")
    assert result.ret == 0
    with View(project.path / ".avo" / FILE, 1) as view:
        seed, *attempts = view.attempts()
        outcomes = view.outcomes()
        assert {x.evaluation.shape for x in view.evaluations(seed.id, "screen")} == set(SHAPES)
        for attempt in attempts:
            assert {x.evaluation.shape for x in view.evaluations(attempt.id, "screen")} == {SHAPES[0]}
        promoted = [x for x in attempts if outcomes[x.id].status == "promoted"]
        assert promoted
        for attempt in promoted:
            assert {x.evaluation.shape for x in view.evaluations(attempt.id, "confirm")} == set(SHAPES)


def test_a_glob_that_matches_no_shape_is_refused_with_those_there_are(project: Project) -> None:
    project.kernel("slow.py", SLOW)
    result = project.run("--avo-evolve", "kernels/slow.py", "--avo-screen", "*-d128-*")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        [f"*--avo-screen: '?-d128-?' matches none of the shapes: expected some of {SHAPES[0]}*"]
    )
