"""Questions by way of a spool: what is asked once, what again, and what a resumed run finds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.evaluation.spool import client as client_module
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.notes import Ask
from tests.evaluation.spool.desk import KIND, PATIENCE_S, SHAPES, Clerk, asked, request, serve

Connect = Callable[..., SpoolClient]


def results(futures: Mapping[str, Future[Evaluation]]) -> dict[str, str]:
    return {name: future.result(timeout=PATIENCE_S).reason for name, future in futures.items()}


def lines(clerk: Clerk) -> list[str]:
    return clerk.log.read_text().splitlines()


def ended(folder: SpoolFolder) -> bool:
    """Whether nothing is left of any request."""
    deadline = time.monotonic() + PATIENCE_S
    while (folder.names("requests") or folder.names("claims")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not folder.names("requests") and not folder.names("claims")


def test_a_request_is_answered_shape_by_shape(folder: SpoolFolder, connect: Connect, clerk: Clerk) -> None:
    client = connect()
    futures = client.submit(request("one"))
    assert asked(folder) == 1
    served = serve(folder, clerk)
    assert results(futures) == {shape.id: "one" for shape in SHAPES}
    assert (served.requests, served.evaluations, served.ended) == (1, 3, "nothing is left")
    assert ended(folder)
    [work] = client.work()
    assert (work.evaluations, work.busy_s, work.device) == (3, 1.5, "GPU-1")


def test_a_resumed_run_finds_answers_that_came_while_it_was_away(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    connect().submit(request("one"))
    connect().close()
    serve(folder, clerk)
    assert results(connect().submit(request("one"))) == {shape.id: "one" for shape in SHAPES}
    assert len(lines(clerk)) == 3
    assert ended(folder)


def test_a_resumed_run_asks_nothing_that_still_waits(folder: SpoolFolder, connect: Connect, clerk: Clerk) -> None:
    connect().submit(request("one"))
    futures = connect().submit(request("one", shapes=SHAPES[1:]))  # it had recorded the first shape
    assert asked(folder) == 1
    serve(folder, clerk)
    assert results(futures) == {shape.id: "one" for shape in SHAPES[1:]}
    assert len(lines(clerk)) == 3


def test_asking_again_measures_again(folder: SpoolFolder, connect: Connect, clerk: Clerk) -> None:
    client = connect()
    first, second = client.submit(request("one")), client.submit(request("one"))
    assert asked(folder) == 2
    serve(folder, clerk)
    assert results(first) == results(second)
    assert len(lines(clerk)) == 6


def test_another_run_wants_figures_of_its_own(folder: SpoolFolder, connect: Connect, clerk: Clerk) -> None:
    connect("run 1").submit(request("one"))
    connect("run 2").submit(request("one"))
    assert asked(folder) == 2


def test_a_run_without_a_name_takes_its_requests_along(folder: SpoolFolder) -> None:
    client = SpoolClient(folder, KIND)
    futures = client.submit(request("one"))
    client.close()
    assert asked(folder) == 0
    with pytest.raises(EvaluatorError, match="the run is ending"):
        results(futures)


def test_a_run_that_can_be_resumed_leaves_its_requests(folder: SpoolFolder, connect: Connect) -> None:
    client = connect()
    client.submit(request("one"))
    client.close()
    assert asked(folder) == 1


def test_a_failure_of_the_evaluator_is_told_and_asked_again_by_a_resumed_run(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request("fails"))
    serve(folder, clerk)
    with pytest.raises(EvaluatorError, match="the incumbent failed"):
        results(futures)
    connect().submit(request("fails"))
    assert asked(folder) == 1


def test_a_folder_that_was_carried_is_brought_home_by_copying_answers(
    folder: SpoolFolder, connect: Connect, clerk: Clerk, tmp_path: Path
) -> None:
    client = connect()
    futures = client.submit(request("one"))
    away = SpoolFolder(Path(shutil.copytree(folder.path, tmp_path / "away")))
    shutil.rmtree(away.path / "claims")  # an archive may leave out empty folders
    more = client.submit(request("two"))
    assert serve(away, clerk).requests == 1
    for name in away.names("answers"):
        content = (away.path / "answers" / name).read_bytes()
        copy = folder.path / "answers" / name
        copy.write_bytes(content[:20])  # half of it is there for a moment
        time.sleep(0.1)
        copy.write_bytes(content)
    assert results(futures) == {shape.id: "one" for shape in SHAPES}
    serve(folder, clerk)
    assert results(more) == {shape.id: "two" for shape in SHAPES}
    assert len(lines(clerk)) == 6
    assert ended(folder)


def test_a_request_that_somebody_removed_is_asked_again(
    folder: SpoolFolder, connect: Connect, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MISSING_S", 0.1)
    futures = connect().submit(request("one"))
    [name] = folder.names("requests")
    folder.remove("requests", name)
    deadline = time.monotonic() + PATIENCE_S
    while not asked(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    serve(folder, clerk)
    assert len(results(futures)) == 3


def test_a_request_says_what_must_answer_it(folder: SpoolFolder, connect: Connect) -> None:
    connect().submit(request("one"))
    [name] = folder.names("requests")
    ask = folder.read("requests", name, Ask)
    assert ask is not None
    assert ask.kind == KIND.kind
    assert ask.tickets.keys() == {shape.id for shape in SHAPES}


def test_doing_says_how_many_wait_and_where(folder: SpoolFolder, connect: Connect) -> None:
    client = connect()
    assert client.doing() == "idle"
    client.submit(request("one"))
    client.submit(request("two"))
    deadline = time.monotonic() + PATIENCE_S
    while not client.doing().startswith("2 wait"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.doing() == f"2 wait in {folder.path}"
