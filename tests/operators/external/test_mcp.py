"""The tools of a step over MCP, called by the SDK's own client."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from pytest_avo.operators.external.step_server import StepServer
from pytest_avo.operators.external.wire import write_step_file
from tests.operators.external.conftest import Make, Member, Open
from tests.operators.steps import SEED

pytestmark = pytest.mark.skipif(find_spec("mcp") is None, reason="needs pytest-avo[mcp]")


def talk(member: Member, conversation: Callable[[Any], Awaitable[None]]) -> None:
    """Have a client start the server in the folder and speak with it."""
    import mcp  # which takes a second

    parameters = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "pytest_avo.mcp"], cwd=member.folder, env=dict(os.environ)
    )

    errors = sys.__stderr__  # sys.stderr is pytest's, which no process can have
    assert errors is not None

    async def run() -> None:
        async with mcp.stdio_client(parameters, errlog=errors) as streams, mcp.ClientSession(*streams) as session:
            await session.initialize()
            await conversation(session)

    anyio.run(run)


def text(result: Any) -> str:
    return "".join(part.text for part in result.content)


def test_a_step_over_mcp(outside: Make, open_step: Open) -> None:
    member = open_step(outside("wait"))

    async def conversation(session: Any) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert {"edit_draft", "evaluate_draft", "search_knowledge", "status", "wait", "submit"} <= set(tools)
        assert "search" in str(tools["edit_draft"].input_schema)
        told = text(await session.call_tool("read_task", {}))
        assert "- Promotion: correct on every shape" in told
        assert told.count("## The contract") == 1
        assert text(await session.call_tool("machine_facts", {})) == "one abacus"
        change = {"search": "SPEED = 100", "replacement": "SPEED = 120"}
        assert "now: +1 -1" in text(await session.call_tool("edit_draft", {"replacements": [change]}))
        assert "SPEED = 120" in (member.folder / "draft.py").read_text()
        assert "1.200x" in text(await session.call_tool("evaluate_draft", {"timed": True}))
        wrong = await session.call_tool("evaluate_draft", {"shapes": ["nonsense"]})
        assert wrong.is_error
        assert "there is no shape 'nonsense'" in text(wrong)
        assert "1.200x" in text(await session.call_tool("status", {}))
        said = {"hypothesis": "the literal limits it", "predicted": {"geomean": 1.2}}
        assert not (await session.call_tool("submit", said)).is_error

    talk(member, conversation)
    assert member.proposal().source == SEED.replace("SPEED = 100", "SPEED = 120")


def test_a_folder_without_a_step_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_avo.mcp import main

    monkeypatch.chdir(tmp_path)
    assert main([]) == 2


def test_tools_are_not_listed_before_the_first_step(tmp_path: Path) -> None:
    from mcp.shared.exceptions import MCPError  # which takes a second

    from pytest_avo.mcp import listed

    stopping = threading.Event()
    write_step_file(tmp_path, StepServer(tmp_path / "m0.sock", stopping).path)
    with pytest.raises(MCPError, match="the first step has not begun yet"):
        anyio.run(listed, tmp_path)
    stopping.set()
