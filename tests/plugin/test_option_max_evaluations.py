"""--avo-max-evaluations: the same budget of evaluations for operators that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from pytest_httpserver import HTTPServer

from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View
from tests.operators.model_server import ModelServer, Turn, calls, edit, says
from tests.plugin.conftest import SLOW, Project

pytestmark = pytest.mark.usefixtures("scripted")

# Wrong candidates are never confirmed, so that the number of their evaluations does not hang on the machine's noise.
SUBMIT = calls(("submit", {"hypothesis": "twice the scale is as good"}))
DRAFTING = [
    calls(edit("REPEAT = 40", "REPEAT = 39"), ("evaluate_draft", {})),
    calls(edit("REPEAT = 39", "REPEAT = 80"), ("evaluate_draft", {})),
    calls(edit("* scale", "* scale * 2"), ("evaluate_draft", {})),
    SUBMIT,
    SUBMIT,
]


@pytest.fixture
def serve(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Turn]], ModelServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test-0123456789")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return lambda turns: ModelServer(httpserver, turns)


def evolve(project: Project, *more: str) -> pytest.RunResult:
    plan = ["--avo-evolve", "kernels/slow.py", "--avo-max-rounds", "6", "--avo-peers", "none", "--generations", "5"]
    return project.run(*plan, "--avo-max-evaluations", "9", *more)


def evaluations(project: Project) -> int:
    """All that the lineage has, but the seed's."""
    with View(project.path / ".avo" / FILE, 1) as view:
        seed, *attempts = view.attempts()
        drafts = sum(len(view.evaluations(each.id, "draft")) for each in (seed, *attempts))
        return drafts + sum(len(view.evaluations(each.id, "screen")) for each in attempts)


def test_the_agent_keeps_what_verifies_its_candidate(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer]
) -> None:
    model = serve(DRAFTING)
    result = evolve(project, "--avo-model", "scripted", "--avo-base-url", model.url)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "may spend up to 9 evaluations",
            "generation 1: incorrect *",
            "agent stopped: budget exhausted (max_evaluations): 7 of 9 evaluations are made, an attempt needs up to 4",
            "evaluations of drafts *5 *",
            "evaluations of candidates *2 *",
            "evaluations *7 *9*",
        ]
    )
    assert evaluations(project) == 7, "the last draft was tried on one shape when it was submitted"
    assert "not available here: 1 evaluations of drafts are left in this run, this needs 2" in model.results(3)[-1]
    assert "The run has 9 evaluations left" in model.requests[0]["messages"][1]["content"]
    assert len(model.requests) == 5


def test_one_answer_has_as_many_for_more_attempts(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer]
) -> None:
    def answer(factor: int) -> Turn:
        source = SLOW.replace("* scale", f"* scale * {factor}")
        return says(f'```python\n{source}```\n{{"hypothesis": "{factor} times the scale"}}')

    model = serve([answer(2), answer(3), answer(4), answer(5)])
    result = evolve(project, "--avo-operator", "oneshot", "--avo-model", "scripted", "--avo-base-url", model.url)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "generation 3: incorrect *",
            "oneshot stopped: budget exhausted (max_evaluations): 6 of 9 evaluations are made, an attempt *",
            "kernels/slow.py: 3 attempts · 0 commits*",
        ]
    )
    assert evaluations(project) == 6
