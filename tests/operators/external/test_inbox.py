from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.external.inbox import InboxOperator
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
    return InboxOperator(ExternalSettings(inbox=folder))


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
    waiting.join(0.2)
    assert waiting.is_alive()
    (folder / "END").touch()
    waiting.join(180)
    assert found == [None]
    world.stopping.set()
    with pytest.raises(OperatorStopped):
        inbox.propose(world.task())


def test_a_folder_must_be_named_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected --avo-inbox DIR"):
        InboxOperator(ExternalSettings())
    with pytest.raises(InvalidInput, match="is no folder"):
        InboxOperator(ExternalSettings(inbox=tmp_path / "none"))


def test_what_is_no_file_is_left_alone(inbox: InboxOperator, folder: Path, world: World) -> None:
    (folder / "a.py").symlink_to("nowhere.py")
    (folder / "b.py").mkdir()
    os.mkfifo(folder / "c.py")
    put(folder / "d.py", FASTER)
    proposal = inbox.propose(world.task())
    assert proposal is not None
    assert (proposal.source, proposal.failed) == (FASTER, "")
    (folder / "END").touch()
    world.settle(proposal)
    assert inbox.propose(world.task()) is None


def test_a_file_from_a_host_whose_clock_is_ahead_is_taken_when_it_stays_as_it_is(
    inbox: InboxOperator, folder: Path, world: World
) -> None:
    put(folder / "a.py", FASTER, age_s=-3600.0)
    assert inbox._take(world.task()) is None
    proposal = inbox.propose(world.task())
    assert proposal is not None
    assert proposal.source == FASTER


def test_a_candidate_is_read_as_python_reads_it_through_a_link_too(
    inbox: InboxOperator, folder: Path, world: World, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "mine.py"
    elsewhere.write_bytes(b"\xef\xbb\xbf# coding: utf-8\r\n" + FASTER.replace("\n", "\r\n").encode())
    os.utime(elsewhere, (0, 0))
    (folder / "a.py").symlink_to("../mine.py")
    proposal = inbox.propose(world.task())
    assert proposal is not None
    assert (proposal.source, proposal.failed) == (f"# coding: utf-8\n{FASTER}", "")
    assert elsewhere.exists()


def test_what_could_be_no_kernel_fails_the_attempt(inbox: InboxOperator, folder: Path, world: World) -> None:
    (folder / "a.py").write_bytes(b"x = '\xff'\n")
    (folder / "b.py").write_bytes(b"#" * 2_000_001)
    for said in ("a.py: is no UTF-8 text, nor in an encoding", "b.py: is longer than a kernel may be: expected"):
        os.utime(folder / said[:4], (0, 0))
        proposal = inbox.propose(world.task())
        assert proposal is not None
        assert said in proposal.failed
        world.settle(proposal, "failed")
