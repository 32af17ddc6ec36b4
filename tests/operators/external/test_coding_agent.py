from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.linux import processes
from pytest_avo.operators.budget import Budget, BudgetExhausted
from pytest_avo.operators.ledger import Ledger
from pytest_avo.operators.operator import DraftResult, OperatorFailed, OperatorStopped
from tests.operators.external.conftest import Make, Open
from tests.operators.steps import FIRST, SECOND, SEED, World

FASTER = ("SPEED = 100", "SPEED = 120")


def test_a_member_evaluates_notes_and_submits(outside: Make, open_step: Open, world: World) -> None:
    member = open_step(outside("wait"))
    assert member.avo("eval", "--quick") == (0, f"draft {member.avo('eval', '--quick')[1][6:12]}\n{SECOND}: correct")
    member.edit(*FASTER)
    status, text = member.avo("eval")
    assert status == 0
    assert "geomean over all shapes: 1.200x" in text
    assert member.avo("note", "a higher SPEED is faster", "--technique", "speed") == (0, "recorded")
    assert "a higher SPEED is faster" in member.avo("search", "speed")[1]
    assert member.avo("submit", "-m", "the literal limits it", "--predict", "1.2", "--predict", f"{FIRST}=1.3")[0] == 0
    proposal = member.proposal()
    assert proposal.source == SEED.replace(*FASTER)
    assert proposal.hypothesis == "the literal limits it"
    assert proposal.predicted == {"geomean": 1.2, FIRST: 1.3}
    assert proposal.lesson == "a higher SPEED is faster"
    assert not proposal.failed


def test_a_draft_is_looked_at_before_it_ends_a_step(outside: Make, open_step: Open) -> None:
    member = open_step(outside("wait"))
    submit = ("submit", "-m", "something is different")
    assert "nothing to submit" in member.avo(*submit)[1]
    member.edit("return q", "return q q")
    assert member.avo(*submit) == (1, member.avo("eval")[1])
    member.edit("return q q", "return q")
    member.edit('"target": "cpu"', '"target": "sm90"')
    assert "expected target cpu" in member.avo(*submit)[1]
    member.edit('"target": "sm90"', '"target": "cpu"')
    member.edit(*FASTER)
    assert "was not evaluated on any shape" in member.avo(*submit)[1]
    assert member.avo(*submit)[0] == 0
    assert "SPEED = 120" in member.proposal().source


def test_a_wrong_draft_has_the_status_of_one(outside: Make, open_step: Open) -> None:
    member = open_step(outside("wait"))
    member.edit('RESULT = "right"', 'RESULT = "wrong"')
    status, text = member.avo("eval")
    assert status == 1
    assert "max error" in text
    answer = member.json("eval", "--shape", FIRST)
    assert (answer["status"], answer["shapes"][0]["kind"], answer["geomean"]) == (1, "incorrect", None)
    (member.folder / "draft.py").write_bytes(b"\xff")
    said = "error: draft.py is no UTF-8 text, nor in an encoding that it declares: invalid start byte at byte 0"
    assert member.avo("eval") == (1, said)
    (member.folder / "draft.py").unlink()
    assert member.avo("eval") == (1, "error: draft.py cannot be read: No such file or directory")


def test_a_spent_budget_has_a_status_of_its_own(outside: Make, open_step: Open, world: World) -> None:
    task = world.task()

    def spent(source: str, shapes: Sequence[Shape], *, timed: bool) -> Mapping[str, DraftResult]:
        raise BudgetExhausted("max_evaluations", "none is left")

    member = open_step(outside("wait"), dataclasses.replace(task, evaluate=spent))
    member.edit(*FASTER)
    assert member.avo("eval") == (3, "budget exhausted (max_evaluations): none is left")


def test_an_evaluation_that_takes_long_is_waited_for_by_ticket(outside: Make, open_step: Open, world: World) -> None:
    task, released = world.task(), threading.Event()

    def slow(source: str, shapes: Sequence[Shape], *, timed: bool) -> Mapping[str, DraftResult]:
        assert released.wait(180)
        return task.evaluate(source, shapes, timed=timed)

    member = open_step(outside("wait"), dataclasses.replace(task, evaluate=slow))
    member.edit(*FASTER)
    status, text = member.avo("eval", "--no-wait")
    assert (status, text.partition(" runs since")[0]) == (6, "ticket 1 (timing 2 shapes)")
    assert member.avo("eval", "--for", "0.05")[0] == 6
    assert member.json("status")["running"] == [1]
    released.set()
    assert "1.200x" in member.avo("wait", "1")[1]
    assert world.evaluated == [FIRST, SECOND]
    assert member.avo("wait", "7") == (2, "there is no ticket 7 in this step: `avo status` lists those that run")


def test_the_folder_stays_and_the_next_step_tells_what_became_of_the_last(
    outside: Make, open_step: Open, world: World
) -> None:
    operator = outside("wait")
    member = open_step(operator, dataclasses.replace(world.task(), direction="widen the loads"))
    assert "## Direction\n\nwiden the loads" in (member.folder / "TASK.md").read_text()
    (member.folder / "scratch.txt").write_text("mine")
    member.edit(*FASTER)
    member.avo("submit", "-m", "the literal limits it")
    member.avo("submit", "-m", "the literal limits it")
    world.settle(member.proposal())
    assert "is_open" not in member.avo("status")[1]
    assert member.avo("eval")[0] == 4
    again = open_step(operator)
    assert again.folder == member.folder
    assert (again.folder / "scratch.txt").read_text() == "mine"
    assert "SPEED = 120" in (again.folder / "draft.py").read_text()
    assert "g0001 | promoted" in (again.folder / "HISTORY.md").read_text()
    assert "+SPEED = 120" in (again.folder / "lineage" / "g0001.diff").read_text()
    assert "+SPEED = 120" in again.avo("show", "g0001", "--diff")[1]
    assert again.json("wait")["generation"] == 2


def test_work_that_was_done_while_a_candidate_was_judged_is_kept(outside: Make, open_step: Open, world: World) -> None:
    operator = outside("wait")
    member = open_step(operator)
    member.edit(*FASTER)
    member.avo("eval")
    member.avo("submit", "-m", "the literal limits it")
    member.edit("SPEED = 120", "SPEED = 130")
    world.settle(member.proposal())
    assert "SPEED = 130" in (open_step(operator).folder / "draft.py").read_text()


def test_a_step_ends_when_its_time_is_over(outside: Make, open_step: Open) -> None:
    proposal = open_step(outside("wait", step_time_s=0.05)).proposal()
    assert proposal.failed == "the time of the step is over"


def end_once(condition: Callable[[], bool], world: World) -> None:
    """Let the time of the run be over as soon as something has come about."""
    world.ledger = Ledger(Budget(max_time_s=60.0), clock=lambda: 100.0 if condition() else 0.0)


def test_time_that_is_over_takes_the_best_draft(outside: Make, open_step: Open, world: World) -> None:
    over = threading.Event()
    end_once(over.is_set, world)
    member = open_step(outside("wait"))
    member.edit(*FASTER)
    assert member.avo("eval")[0] == 0
    over.set()
    proposal = member.proposal()
    assert "SPEED = 120" in proposal.source
    assert proposal.hypothesis == "the best draft of a step that ended early: the time of the step is over"


def test_a_run_that_ends_lets_go(outside: Make, world: World, open_step: Open) -> None:
    operator = outside("wait")
    member = open_step(operator)
    world.stopping.set()
    member.thread.join(timeout=180)
    assert not member.proposals
    with pytest.raises(OperatorStopped):
        operator.propose(world.task())


SCRIPT = """
import os, pathlib, subprocess, sys
draft = pathlib.Path("draft.py")
draft.write_text(draft.read_text().replace("SPEED = 100", "SPEED = 120"))
print("evaluating", subprocess.run(["avo", "eval"]).returncode, os.environ["AVO_STEP"] == os.getcwd())
print("submitting", subprocess.run(["avo", "submit", "-m", "the literal limits it"]).returncode)
"""


def script(tmp_path: Path, text: str) -> str:
    """A command that runs a Python script as the agent."""
    path = tmp_path / "agent.py"
    path.write_text(text)
    return f"{sys.executable} {path} {{prompt}}"


def test_a_program_works_in_the_folder_with_avo_on_its_path(outside: Make, world: World, tmp_path: Path) -> None:
    proposal = outside(script(tmp_path, SCRIPT)).propose(world.task())
    assert "SPEED = 120" in proposal.source
    log = next((tmp_path / ".avo" / "transcripts").rglob("gen-0001-00.log")).read_text()
    assert "submitting 0" in log
    assert "evaluating 0 True" in log


def test_a_program_that_does_nothing_and_fails_stops_the_run(outside: Make, world: World, tmp_path: Path) -> None:
    command = script(tmp_path, "import sys; print('no key'); sys.exit(3)")
    with pytest.raises(OperatorFailed, match=r"ended with status 3 and did nothing; it said: no key"):
        outside(command).propose(world.task())


def test_a_program_that_ends_without_submitting_fails_the_step(outside: Make, world: World, tmp_path: Path) -> None:
    proposal = outside(script(tmp_path, "print('done')")).propose(world.task())
    assert proposal.failed == "the agent ended without `avo submit` (status 0)"


def test_a_program_that_never_ends_is_ended_with_its_children(outside: Make, world: World, tmp_path: Path) -> None:
    text = f"""
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
path = pathlib.Path({str(tmp_path / "pid")!r})
path.with_name("half").write_text(str(child.pid))
path.with_name("half").rename(path)
time.sleep(600)
"""
    end_once((tmp_path / "pid").exists, world)
    proposal = outside(script(tmp_path, text)).propose(world.task())
    assert proposal.failed == "the time of the step is over"
    assert not processes.is_running(int((tmp_path / "pid").read_text()))


def test_a_limit_on_tokens_holds_between_steps(outside: Make, world: World) -> None:
    world.limit(Budget(max_tokens=100))
    world.ledger.add_usage(tokens_in=90, tokens_out=10, cost=None)
    with pytest.raises(BudgetExhausted, match="100 of 100 tokens"):
        outside("wait").propose(world.task())


def test_an_agent_must_be_named_and_be_there(outside: Make) -> None:
    with pytest.raises(InvalidInput, match="expected --avo-agent claude"):
        outside("")
    with pytest.raises(InvalidInput, match="there is no such program on PATH"):
        outside("no-such-agent --flag")


def test_a_path_too_long_for_a_socket_gets_a_shorter_one(outside: Make, open_step: Open) -> None:
    member = open_step(outside("wait", work="/".join(["deep" * 15] * 2)))
    assert member.avo("status")[1].startswith("run 1, generation 1, member 0: open")


def test_a_step_that_was_interrupted_finds_its_draft(outside: Make, open_step: Open, world: World) -> None:
    member = open_step(outside("wait"))
    member.edit(*FASTER)
    member.avo("submit", "-m", "the literal limits it")
    member.avo("submit", "-m", "the literal limits it")
    member.proposal()  # and the run is killed before it is recorded
    again = open_step(outside("wait"))
    assert "SPEED = 120" in (again.folder / "draft.py").read_text()
    assert "open" in again.avo("status")[1]


def test_a_draft_is_read_as_python_reads_it(outside: Make, open_step: Open) -> None:
    member = open_step(outside("wait"))
    draft = member.folder / "draft.py"
    draft.write_bytes(b"\xef\xbb\xbf" + SEED.replace(*FASTER).replace("\n", "\r\n").encode())
    assert "1.200x" in member.avo("eval")[1]
    assert member.avo("submit", "-m", "the literal limits it")[0] == 0
    assert member.proposal().source == SEED.replace(*FASTER)


def test_a_server_whose_socket_was_removed_is_made_anew(outside: Make, world: World, tmp_path: Path) -> None:
    operator, task = outside("wait"), world.task()
    first = operator._server(task, tmp_path)
    assert operator._server(task, tmp_path) is first
    first.path.unlink()
    second = operator._server(task, tmp_path)
    assert second is not first
    assert second.path.is_socket()
    task.stopping.set()


def test_what_an_agent_made_of_names_that_are_ours_makes_way(outside: Make, open_step: Open, world: World) -> None:
    operator = outside("wait")
    member = open_step(operator)
    draft, task, lineage = (member.folder / name for name in ("draft.py", "TASK.md", "lineage"))
    member.edit(*FASTER)
    aside = draft.rename(member.folder / "aside.py")
    os.mkfifo(draft)
    assert member.avo("eval") == (1, "error: draft.py cannot be read: it is no regular file")
    aside.replace(draft)
    assert member.avo("eval")[0] == 0
    assert member.avo("submit", "-m", "the literal limits it")[0] == 0
    draft.unlink()
    os.mkfifo(draft)
    task.unlink()
    task.mkdir()
    shutil.rmtree(lineage)
    lineage.write_text("mine")
    world.settle(member.proposal())
    following = open_step(operator)
    assert following.folder == member.folder
    assert (draft.read_text(), task.is_file()) == (SEED.replace(*FASTER), True)
    assert (lineage / "seed.py").is_file()
    assert len(list(member.folder.glob("draft.py.*"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[" * 200_000 + b"\n",
        b"\xff\n",
        b'{"version": 1, "tool": 5}\n',
        b'{"version": 1, "tool": "status", "arguments": null}\n',
        b'{"version": 1, "tool": "wait", "wait_s": "long"}\n',
        b'{"version": 1, "tool": "wait", "arguments": {"ticket": "seven"}}\n',
    ],
)
def test_what_is_no_request_is_answered_as_one_that_is_wrong(outside: Make, open_step: Open, line: bytes) -> None:
    member = open_step(outside("wait"))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(json.loads((member.folder / ".avo-step").read_text())["socket"])
        connection.sendall(line)
        answer = json.loads(connection.makefile().readline())
    assert answer["status"] == 2
    assert "internal error" not in answer["text"]
