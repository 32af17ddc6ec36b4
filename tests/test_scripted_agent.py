"""The walk-through of benchmarks/scripted_agent.py goes with the kernel that it evolves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_avo.core.kernel import parse_kernel
from pytest_avo.operators.tools.edits import EditError, Replacement, apply
from tests import ROOT

SOURCE = (ROOT / "kernels" / "cpu" / "quickstart.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scripted_agent", ROOT / "benchmarks" / "scripted_agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_edit_but_the_mistaken_one_applies(script: ModuleType) -> None:
    mistaken = []
    for step in script.STEPS:
        text = SOURCE
        for _, arguments in (call for answer in step for call in answer if call[0] == "edit_draft"):
            changes = [Replacement(**each) for each in arguments["replacements"]]
            try:
                text = apply(text, changes).text
            except EditError:
                mistaken.append(changes[0].search)
        assert parse_kernel(text, path=Path("quickstart.py")).fault == ""
    assert mistaken == ["GROUP_HEADS=False"]


def test_answers_follow_from_the_conversation_alone(script: ModuleType) -> None:
    task = {"role": "user", "content": "# Step 2: vary quickstart.py"}
    request: dict[str, Any] = {"model": "m", "messages": [{"role": "system", "content": ""}, task], "tools": [{}]}
    first = script.completion(request)["choices"][0]["message"]
    assert [call["function"]["name"] for call in first["tool_calls"]] == ["edit_draft", "edit_draft", "evaluate_draft"]
    request["messages"] += [first, {"role": "tool", "content": ""}]
    second = script.completion(request)["choices"][0]["message"]
    assert json.loads(second["tool_calls"][0]["function"]["arguments"])["predicted"] == {"geomean": 2.0}
    review = script.completion({"model": "m", "messages": [task]})["choices"][0]["message"]["content"]
    assert len(json.loads(review)["directions"]) == 2
