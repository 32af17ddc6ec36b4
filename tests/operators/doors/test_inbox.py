from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.doors.door_settings import DoorSettings
from pytest_avo.operators.doors.inbox import InboxOperator
from pytest_avo.operators.operator import OperatorStopped
from tests.operators.steps import FIRST, SEED, World

FASTER = SEED.replace("SPEED = 100", "SPEED = 120")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def inbox(folder: Path) -> InboxOperator:
    return InboxOperator(DoorSettings(inbox=folder))


def put(path: Path, source: str, *, age_s: float = 10.0, **note: object) -> None:
    """A file that has lain there for a while."""
    if note:
        path.with_suffix(".json").write_text(json.dumps(note))
    path.write_text(source)
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def test_files_become_candidates_oldest_first(inbox: InboxOperator, folder: Path, world: World) -> None:
    put(folder / "b.py", SEED, age_s=30)
    put(folder / "a.py", FASTER, hypothesis="wider", predicted={"geomean": 1.2, FIRST: 1.3, "nonsense": 2})
    first = inbox.propose(world.task())
    assert first is not None
    assert (first.source, first.hypothesis) == (SEED, "A kernel whose speed stands in it.")
    world.settle(first, "duplicate")
    second = inbox.propose(world.task())
    assert second is not None
    assert (second.source, second.hypothesis) == (FASTER, "wider")
    assert second.predicted == {"geomean": 1.2, FIRST: 1.3}
    assert [path.suffix for path in sorted(folder.iterdir())] == [""]


def test_a_file_that_was_taken_before_a_kill_is_proposed_again(
    inbox: InboxOperator, folder: Path, world: World
) -> None:
    put(folder / "a.py", FASTER, hypothesis="wider")
    put(folder / "b.py", SEED, age_s=5)
    task = world.task()
    assert inbox.propose(task) == inbox.propose(task)


def test_a_note_that_says_nothing_fails_the_attempt(inbox: InboxOperator, folder: Path, world: World) -> None:
    put(folder / "a.py", FASTER, hypotesis="wider")
    proposal = inbox.propose(world.task())
    assert proposal is not None
    assert "expected {hypothesis, predicted?}" in proposal.failed


def test_it_ends_when_told_and_waits_till_then(inbox: InboxOperator, folder: Path, world: World) -> None:
    put(folder / ".half.py", "half a ker")
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(inbox.propose(world.task())))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    (folder / "END").touch()
    waiting.join(5)
    assert found == [None]
    world.stopping.set()
    with pytest.raises(OperatorStopped):
        inbox.propose(world.task())


def test_a_folder_must_be_named_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected --avo-inbox DIR"):
        InboxOperator(DoorSettings())
    with pytest.raises(InvalidInput, match="is no folder"):
        InboxOperator(DoorSettings(inbox=tmp_path / "none"))
