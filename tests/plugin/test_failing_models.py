"""Models and servers that fail: whole evolutions over real HTTP, each of which has to end as its user would want."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.events import Directions, DirectionTaken
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.lineage.view import View
from pytest_avo.operators.model import client
from tests.operators.model_server import Body, ModelServer, Turn, calls, edit, says
from tests.plugin.conftest import ATTENTION, SLOW, Project

KEY = "key-of-the-test-0123456789"
CALL_LIMIT_S = 180
"""What nobody waits for: `silence` says when an answer's time is up."""
EDIT = calls(edit("REPEAT = 40", "REPEAT = 1"), ("evaluate_draft", {"timed": True}))
SUBMIT = calls(("submit", {"hypothesis": "the work is done forty times", "predicted": {"geomean": 20.0}}))
READ = calls(("read_draft", {}))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[Turn]], ModelServer]]:
    """Start a scripted model; a request that is not answered does not keep it from answering others."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with HTTPServer(threaded=True) as server:
        yield lambda turns: ModelServer(server, turns)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turn]:
    """A turn that says nothing until the test has ended; the time of the call that asked for it is up at once.

    That it is up when its seconds are over, test_silence_ends_at_the_deadline shows.
    """
    silent, over = threading.Event(), threading.Event()

    class Outcome(queue.SimpleQueue[object]):
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            assert timeout == CALL_LIMIT_S
            while True:
                try:
                    return super().get(timeout=0.01)
                except queue.Empty:
                    if silent.is_set():
                        silent.clear()
                        raise

    def wait(_: Body) -> Response:
        silent.set()
        over.wait()
        return Response("too late")

    monkeypatch.setattr(client, "queue", SimpleNamespace(SimpleQueue=Outcome, Empty=queue.Empty))
    yield wait
    over.set()


def refused(status: int) -> list[Turn]:
    """A call that fails with a status, its two retries too."""
    body = json.dumps({"error": {"message": f"status {status}", "type": "server_error", "code": None}})
    return [Response(body, status, {"retry-after-ms": "1"}, content_type="application/json")] * 3


DROPPED: list[Turn] = ["dropped"] * 3
GARBLED = Response('{"choices": [', content_type="application/json")


def evolve(project: Project, model: ModelServer, *more: str) -> pytest.RunResult:
    chosen = ["--avo-model", "scripted", "--avo-base-url", model.url, "--avo-model-timeout", str(CALL_LIMIT_S)]
    plan = ["--avo-evolve", "kernels/slow.py", "--avo-max-rounds", "6", "--avo-peers", "none", "--avo-accept", "match"]
    result = project.run(*plan, *chosen, *more)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    return result


def outcomes(project: Project) -> list[AttemptOutcome]:
    """How the attempts ended, the seed's first."""
    with View(project.path / ".avo" / FILE, 1) as view:
        return list(view.outcomes().values())


def kernel(project: Project) -> str:
    return (project.path / "kernels" / "slow.py").read_text()


@pytest.mark.usefixtures("scripted")
def test_each_failure_alone_is_survived(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer], silence: Turn
) -> None:
    model = serve([*refused(429), READ, *refused(500), READ, *DROPPED, EDIT, silence, READ, GARBLED, SUBMIT])
    result = evolve(project, model, "--generations", "1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "  model: RateLimitError: *status 429*; asking again",
            "  model: InternalServerError: *status 500*; asking again",
            "  model: APIConnectionError: *; asking again",
            f"  model: no answer from scripted* within {CALL_LIMIT_S} s; asking again",
            "  model: expected JSON, got *; asking again",
            "generation 1: promoted *",
            "kernels/slow.py: 1 attempt · 1 commit *",
            "model turns *10 *",
        ]
    )
    assert "REPEAT = 1\n" in kernel(project)
    seed, promoted = outcomes(project)
    assert (seed.status, promoted.status) == ("seed", "promoted")
    assert promoted.tokens_in == 5000, "five answers; what failed cost nothing"


@pytest.mark.usefixtures("scripted")
def test_failures_in_a_row_end_the_run_and_it_can_be_resumed(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer], silence: Turn
) -> None:
    model = serve([EDIT, *refused(429), *refused(500), *DROPPED, silence, GARBLED, SUBMIT])
    result = evolve(project, model, "--generations", "1")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(
        [
            "agent stopped: scripted at http://*/v1 failed 5 calls in a row, last: expected JSON, got *; everything "
            "finished is kept: continue with --avo-resume",
            "kernels/slow.py: 0 attempts · 0 commits*",
            "resume with: pytest *--avo-resume",
            "tokens *1,100 *",
        ]
    )
    assert [outcome.status for outcome in outcomes(project)] == ["seed"]
    assert kernel(project) == SLOW
    result = evolve(project, model, "--generations", "1", "--avo-resume")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["resuming run 1: *", "generation 1: promoted *"])
    assert [outcome.status for outcome in outcomes(project)] == ["seed", "promoted"]
    assert len(model.requests) == 1 + 3 + 3 + 3 + 1 + 1 + 1, "what was answered before is not asked again"


@pytest.mark.usefixtures("scripted")
def test_a_model_that_loops_forever_is_stopped_and_steered(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer]
) -> None:
    review = json.dumps({"diagnosis": "it only reads", "directions": [{"title": "edit something"}]})

    def loop(body: Body) -> Body:
        return READ if body.get("tools") else says(review)

    model = serve([loop])
    result = evolve(project, model, "--generations", "4", "--avo-turns", "6", "--avo-cycle", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "generation 1: failed  no submission in 6 answers",
            "generation 2: failed  no submission in 6 answers",
            "supervisor: the last 2 attempts failed the same way (failed: no submission in # answers); reviewing *",
            "supervisor: it only reads",
            "supervisor: 1 direction: edit something",
            "  direction: edit something",
            "generation 4: failed  no submission in 6 answers",
            "kernels/slow.py: 4 attempts · 0 commits*",
            "not committed: 4 failed",
        ]
    )
    assert [outcome.status for outcome in outcomes(project)] == ["seed", *["failed"] * 4]
    with View(project.path / ".avo" / FILE, 1) as view:
        assert view.events(Directions)
        assert view.events(DirectionTaken)[0].fact.generation == 3
    reminders = [message["content"] for message in model.requests[5]["messages"] if message["role"] == "user"][1:]
    assert reminders == [f"{left} answers are left in this step: submit in time." for left in (5, 2, 1)]
    assert kernel(project) == SLOW


@pytest.mark.usefixtures("scripted")
def test_a_model_that_submits_junk_changes_nothing(
    project: Project, serve: Callable[[Sequence[Turn]], ModelServer]
) -> None:
    def submitting(source: str) -> Body:
        return calls(
            ("write_draft", {"source": source}), ("submit", {"hypothesis": "it cannot be slower than nothing"})
        )

    wrong = SLOW.replace("* scale", "* scale * 2")
    no_kernel = "import os\nprint('hello')\n"
    insist = calls(("submit", {"hypothesis": "I insist on this one"}))
    crash = SLOW.replace(ATTENTION, "def attention(q, k, v, *, causal, scale):\n    raise MemoryError\n")
    script = [submitting(no_kernel), submitting("def attention(:"), submitting(wrong), insist]
    model = serve([*script, submitting(crash), insist])
    result = evolve(project, model, "--generations", "2")
    assert result.ret == 0, "a candidate that is no good is a normal event"
    result.stdout.fnmatch_lines(
        [
            "generation 1: incorrect *",
            "generation 2: crashed *MemoryError*",
            "kernels/slow.py: 2 attempts · 0 commits*",
            "not committed: 1 crashed · 1 incorrect",
        ]
    )
    assert [outcome.status for outcome in outcomes(project)] == ["seed", "incorrect", "crashed"]
    assert kernel(project) == SLOW
    told = [model.results(request)[-1] for request in (1, 2, 3)]
    assert "error: the draft declares no AVO literal" in told[0]
    assert "error: " in told[1]
    assert "not submitted yet: " in told[2]
    task = model.requests[4]["messages"][1]["content"]
    assert "g0001 | incorrect" in task, "the next attempt sees what became of the last"
