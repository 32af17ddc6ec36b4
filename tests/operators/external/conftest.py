from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.command.main import main
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.external.coding_agent import CodingAgentOperator
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.operator import OperatorStopped, Proposal, Task
from tests.operators.steps import World


@dataclass
class Member:
    """A step of the operator that runs on a thread, and its folder."""

    folder: Path
    thread: threading.Thread
    proposals: list[Proposal]
    capture: pytest.CaptureFixture[str]

    def avo(self, *arguments: str) -> tuple[int, str]:
        """The command, run in the folder: its exit status and what it printed."""
        self.capture.readouterr()
        status = main(arguments)
        out, err = self.capture.readouterr()
        return status, (out + err).rstrip("\n")

    def json(self, *arguments: str) -> Any:
        return json.loads(self.avo(*arguments, "--json")[1])

    def edit(self, before: str, after: str) -> None:
        draft = self.folder / "draft.py"
        draft.write_text(draft.read_text().replace(before, after))

    def proposal(self) -> Proposal:
        self.thread.join(timeout=180)
        assert not self.thread.is_alive()
        return self.proposals[-1]


Make = Callable[..., CodingAgentOperator]
Open = Callable[..., Member]


@pytest.fixture
def outside(world: World, tmp_path: Path) -> Iterator[Callable[..., CodingAgentOperator]]:
    """Make the operator; its servers close when the test ends."""

    def make(agent: str, *, step_time_s: float = 600.0, work: str = "work", **chosen: Any) -> CodingAgentOperator:
        external = ExternalSettings(agent=agent, step_time_s=step_time_s, work=tmp_path / work)
        return CodingAgentOperator(AgentSettings(**chosen), external)

    yield make
    world.stopping.set()


@pytest.fixture
def open_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Member]]:
    """Begin a step, and go to its folder once it is laid out."""
    threads: list[threading.Thread] = []

    def begin(operator: CodingAgentOperator, task: Task | None = None) -> Member:
        task = task or world.task()
        proposals: list[Proposal] = []
        said = len(world.said)

        def propose() -> None:
            with suppress(OperatorStopped):
                proposals.append(operator.propose(task))

        thread = threading.Thread(target=propose, daemon=True)
        threads.append(thread)
        thread.start()
        while len(world.said) == said and thread.is_alive():
            thread.join(0.01)
        folder = next(operator.chosen.work.glob(f"run-*/m{task.member}"))
        monkeypatch.chdir(folder)
        return Member(folder, thread, proposals, capsys)

    yield begin
    world.stopping.set()
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVO_STEP", raising=False)
    assert "AVO_STEP" not in os.environ
