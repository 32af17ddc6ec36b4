"""Compaction: the oldest output goes first, calls keep their answers, the draft is always there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_avo.operators.agent.compaction import compact
from pytest_avo.operators.model.chat import estimated_tokens
from pytest_avo.operators.model.fence import Fence
from pytest_avo.operators.model.redaction import Redactor

FENCE = Fence("0123abcd", Redactor())
OPENING: list[dict[str, Any]] = [
    {"role": "system", "content": "system " * 50},
    {"role": "user", "content": "task " * 200},
]


def exchange(number: int, size: int = 3000) -> list[dict[str, Any]]:
    arguments = json.dumps({"source": f"{number}" * size})
    call = {"id": f"c{number}", "type": "function", "function": {"name": "write_draft", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": f"c{number}", "content": FENCE.data(f"result {number} " + "x" * size)}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, result]


def conversation(exchanges: int) -> list[dict[str, Any]]:
    return [*OPENING, *(message for number in range(exchanges) for message in exchange(number))]


def compacted(exchanges: int, limit_tokens: int) -> list[Any]:
    return compact(conversation(exchanges), tools=[], limit_tokens=limit_tokens, fence=FENCE, draft="THE DRAFT")


@pytest.mark.parametrize("limit_tokens", [20_000, 14_000, 9000, 5000, 2000])
def test_size_opening_draft_and_pairs(limit_tokens: int) -> None:
    messages = compacted(12, limit_tokens)
    assert estimated_tokens(messages) <= limit_tokens
    assert messages[:2] == OPENING
    assert messages[-1]["content"].endswith(FENCE.data("THE DRAFT"))
    asked = [call["id"] for message in messages for call in message.get("tool_calls", [])]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert asked == answered
    for message in messages:
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"])


def test_the_oldest_are_shortened_first_and_the_newest_stay() -> None:
    messages = compacted(8, 14_000)
    results = [message["content"] for message in messages if message["role"] == "tool"]
    assert results[0].endswith("[end 0123abcd]\n(shortened)")
    assert results[0].startswith("[data 0123abcd]\nresult 0 ")
    assert [len(each) > 3000 for each in results[-3:]] == [True] * 3


def test_whole_exchanges_go_when_shortening_is_not_enough() -> None:
    results = [message["content"] for message in compacted(40, 5000) if message["role"] == "tool"]
    assert len(results) < 40
    assert "result 39" in results[-1]


def test_what_fits_is_only_told_the_draft() -> None:
    assert compacted(2, 50_000)[:-1] == conversation(2)


def test_reasoning_is_shortened_with_its_answer_and_never_missing() -> None:
    messages = conversation(6)
    for message in messages:
        if message["role"] == "assistant":
            message |= {"reasoning_content": "hm " * 2000, "reasoning_details": [{"data": "x" * 2000}]}
    shorter = compact(messages, tools=[], limit_tokens=14_000, fence=FENCE, draft="THE DRAFT")
    assert estimated_tokens(shorter) <= 14_000
    first, *_, last = [message for message in shorter if message["role"] == "assistant"]
    assert 0 < len(str(first["reasoning_content"])) < 1000
    assert "reasoning_details" not in first
    assert last["reasoning_content"] == "hm " * 2000
