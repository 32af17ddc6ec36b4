"""The schemas that a model is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.model.chat import ToolCall
from pytest_avo.operators.model.fence import Fence
from pytest_avo.operators.model.redaction import Redactor
from pytest_avo.operators.operator import Proposal
from pytest_avo.operators.tools.draft import Draft
from pytest_avo.operators.tools.draft_tools import DraftTools
from pytest_avo.operators.tools.lineage_tools import LineageTools, knowledge_specs
from pytest_avo.operators.tools.tools import LONGEST_ANSWER, Toolbox
from tests.operators.steps import SEED, World


@pytest.fixture
def toolbox(world: World) -> Toolbox:
    task = world.task()
    specs = [
        *LineageTools(task, LessonMemory(task.view)).specs(),
        *knowledge_specs(KnowledgeBase()),
        *DraftTools(task, Draft(task, None), with_memory=True).specs(),
    ]
    return Toolbox(specs, Fence("0123abcd", Redactor()))


def handle(toolbox: Toolbox, name: str, **arguments: Any) -> str:
    return toolbox.handle(ToolCall(id="1", name=name, arguments=json.dumps(arguments)))


def test_every_tool_is_described_and_its_schema_stands_alone(toolbox: Toolbox) -> None:
    assert len(toolbox.tools) == 19
    for tool in toolbox.tools:
        assert len(tool.description) > 20
        assert tool.parameters["type"] == "object"
        assert tool.parameters["additionalProperties"] is False
        assert "$" not in json.dumps(tool.parameters)
    edit = next(tool for tool in toolbox.tools if tool.name == "edit_draft")
    change = edit.parameters["properties"]["replacements"]["items"]  # type: ignore[index]
    assert set(change["properties"]) == {"search", "replacement"}
    assert change["required"] == ["search", "replacement"]


def test_no_arguments_at_all_are_those_of_a_call_without_any(toolbox: Toolbox) -> None:
    assert "seed" in toolbox.handle(ToolCall(id="1", name="list_versions", arguments=""))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_draft", json.dumps(json.dumps({"first_line": 5}))),
        ("read_draft", json.dumps(json.dumps(json.dumps({"first_line": 5})))),
        ("read_draft", '```json\n{"first_line": 5}\n```'),
        ("read_draft", '{"first_line": "5"}'),
        ("read_draft", '{"arguments": {"first_line": 5}}'),
        ("read_draft", json.dumps({"parameters": json.dumps({"first_line": 5})})),
        ("read_draft", '{"first_line": 5}\n```'),
        ("functions.read_draft", '{"first_line": 5}'),
        ("read_draft", '{"first_line": 5, "last_line": null}'),
        ("edit_draft", json.dumps({"replacements": json.dumps([{"search": "= 100", "replacement": "= 120"}])})),
    ],
)
def test_arguments_that_are_packed_oddly_are_unpacked(toolbox: Toolbox, name: str, arguments: str) -> None:
    answer = toolbox.handle(ToolCall(id="1", name=name, arguments=arguments))
    assert "SPEED = 100" in answer or "now: +1 -1" in answer


def test_a_text_that_looks_like_a_list_stays_a_text(toolbox: Toolbox) -> None:
    assert "changes" not in handle(toolbox, "write_draft", source="[1]")
    assert "[1]" in handle(toolbox, "read_draft")


def test_a_draft_is_read_in_part(toolbox: Toolbox) -> None:
    assert "lines 5 to 6 of 10:\nSPEED = 100" in handle(toolbox, "read_draft", first_line=5, last_line=6)
    assert "error: lines 50 to 60" in handle(toolbox, "read_draft", first_line=50, last_line=60)


def test_versions_are_listed_read_and_compared(world: World, toolbox: Toolbox) -> None:
    world.settle(Proposal(SEED.replace("100", "150"), "half more", {"geomean": 1.2}))
    world.settle(Proposal(SEED.replace("100", "90"), "slower"))
    listed = handle(toolbox, "list_versions", last=2).splitlines()
    assert listed[1].startswith("g0002 | same | 0.670x")
    assert listed[2].startswith("g0001 | promoted | 1.649x [1.632, 1.665] over its parent | 1.649x the seed")
    assert listed[3] == "... 1 older ones"
    assert "g0002" not in handle(toolbox, "list_versions", only="promoted")
    read = handle(toolbox, "read_version", version="g0001")
    assert "predicted geomean 1.200 | half more" in read
    assert "SPEED = 150" in read
    diff = handle(toolbox, "diff_versions", before="g0001", after="g0002")
    assert "-SPEED = 150\n+SPEED = 90" in diff


def test_a_version_is_looked_into_or_started_over_from(world: World, toolbox: Toolbox) -> None:
    world.settle(Proposal(SEED.replace("100", "90"), "slower"))
    assert "not available here: no such tool for a CPU" in handle(toolbox, "compile_report", version="g0001")
    assert "the draft has 10 lines now: +1 -1" in handle(toolbox, "reset_draft", version="g0001")
    assert "SPEED = 90" in handle(toolbox, "read_draft")
    handle(toolbox, "reset_draft")
    assert "SPEED = 100" in handle(toolbox, "read_draft")


def test_a_draft_is_raced_anew_against_any_version(world: World, toolbox: Toolbox) -> None:
    world.settle(Proposal(SEED.replace("100", "90"), "slower"))
    handle(toolbox, "write_draft", source=SEED.replace("100", "120"))
    assert "1.333x" in handle(toolbox, "race_draft", against="g0001")
    assert "1.200x" in handle(toolbox, "race_draft", shapes=["smallest"])
    assert world.raced == ["g0001", "incumbent"]
    assert not world.evaluated, "a race answers no evaluation, and is answered by none"
    assert "or a peer of none here" in handle(toolbox, "race_draft", against="cudnn")


def test_an_answer_is_bounded(toolbox: Toolbox) -> None:
    answer = handle(toolbox, "search_knowledge", query="attention softmax keys", limit=20)
    assert len(answer) < LONGEST_ANSWER + 200
    assert "characters left out" in answer


def test_lessons_must_say_something(toolbox: Toolbox) -> None:
    assert "wrong: text: expected str of length >= 10;" in handle(toolbox, "record_lesson", text="short", technique="t")


def test_settings_have_the_defaults_that_are_documented() -> None:
    settings = AgentSettings()
    assert (settings.turns, settings.stall, settings.cycle, settings.directions) == (40, 6, 4, 3)


def test_lessons_are_searched_by_technique_and_symptom(world: World, toolbox: Toolbox) -> None:
    handle(toolbox, "record_lesson", text="Wide tiles spilled.", technique="tile size", symptom="register spills")
    handle(toolbox, "record_lesson", text="Packing paid off on decoding.", technique="packed heads")
    assert "Wide tiles spilled." in handle(toolbox, "search_lessons", query="what spills?")
    found = handle(toolbox, "search_lessons", query="packed")
    assert "g0001 (packed heads): Packing paid off on decoding." in found
    assert "Wide tiles" not in found
    assert "nothing was learnt about that yet" in handle(toolbox, "search_lessons", query="warp specialisation")
