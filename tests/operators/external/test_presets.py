"""What the known agents are started with, and what their output says. Lines are as the programs print them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.operators.external.presets import PRESETS, AgentUsage, preset


def test_a_session_and_a_model_are_handed_on_where_there_are_any() -> None:
    codex = PRESETS["codex"]
    assert codex.command("do it")[-2:] == ["allow_login_shell=false", "do it"]
    assert codex.command("do it", session="t1", model="m")[-5:] == ["--model", "m", "resume", "t1", "do it"]
    mini = PRESETS["mini-swe-agent"]
    assert mini.command("do {session} it", session="t1")[-1] == "do {session} it"


def test_a_command_of_the_users_own_is_a_template() -> None:
    own = preset("sh -c 'echo \"$1\"' sh {prompt}")
    assert own.command("a b") == ["sh", "-c", 'echo "$1"', "sh", "a b"]


def test_usage_of_a_whole_session_counts_for_the_step_that_used_it() -> None:
    codex, usage = PRESETS["codex"], AgentUsage(session="s", before=(90, 7))
    codex.take(usage, '{"type": "thread.started", "thread_id": "s"}')
    codex.take(usage, '{"type": "turn.completed", "usage": {"input_tokens": 190, "output_tokens": 10}}')
    assert (usage.tokens_in, usage.tokens_out) == (100, 3)
    codex.take(usage, '{"type": "thread.started", "thread_id": "another"}')
    codex.take(usage, '{"type": "turn.completed", "usage": {"input_tokens": 50, "output_tokens": 2}}')
    assert (usage.tokens_in, usage.tokens_out) == (50, 2)


def test_usage_is_read_from_the_file_that_an_agent_leaves_and_counts_once(tmp_path: Path) -> None:
    mini, usage = PRESETS["mini-swe-agent"], AgentUsage()
    response = {"usage": {"prompt_tokens": 800, "completion_tokens": 50}}
    messages = [{"role": "user"}, {"role": "assistant", "extra": {"cost": 0.5, "response": response}}]
    (tmp_path / mini.trajectory).write_text(json.dumps({"info": {}, "messages": messages}))
    for _ in range(2):
        mini.collect(usage, tmp_path)
    assert usage == AgentUsage(tokens_in=800, tokens_out=50, cost=0.5)


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "claude",
            [
                {"type": "system", "subtype": "init", "session_id": "s"},
                {"type": "assistant", "message": {"usage": {"input_tokens": 5}}, "session_id": "s"},
                {
                    "type": "result",
                    "session_id": "s",
                    "total_cost_usd": 0.25,
                    "usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 7},
                },
            ],
            AgentUsage(tokens_in=100, tokens_out=7, cost=0.25, session="s"),
        ),
        (
            "codex",
            [
                {"type": "thread.started", "thread_id": "s"},
                {
                    "type": "turn.completed",
                    "usage": {"input_tokens": 90, "cached_input_tokens": 50, "output_tokens": 7},
                },
            ],
            AgentUsage(tokens_in=90, tokens_out=7, session="s"),
        ),
        (
            "opencode",
            [
                {
                    "type": "step_finish",
                    "sessionID": "s",
                    "part": {"cost": 0.5, "tokens": {"input": 6, "output": 2, "reasoning": 1, "cache": {"read": 4}}},
                }
            ]
            * 2,
            AgentUsage(tokens_in=20, tokens_out=6, cost=1.0, session="s"),
        ),
        (
            "gemini",
            [
                {"type": "init", "session_id": "s", "model": "m"},
                {"type": "result", "status": "success", "stats": {"input_tokens": 9, "output_tokens": 3}},
            ],
            AgentUsage(tokens_in=9, tokens_out=3, session="s"),
        ),
    ],
)
def test_usage_is_read_from_the_output(name: str, lines: list[dict[str, object]], expected: AgentUsage) -> None:
    usage = AgentUsage()
    for line in ["no JSON", "{broken", "[1]", *map(json.dumps, lines)]:
        PRESETS[name].take(usage, line)
    assert usage == expected


EVENTS = (
    {"type": "result", "session_id": "s", "total_cost_usd": 1.0, "usage": {"input_tokens": 1, "output_tokens": 1}},
    {"type": "thread.started", "thread_id": "s"},
    {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}},
    {"type": "result", "stats": {"models": {"m": {"tokens": {"prompt": 1, "candidates": 1}}}, "input_tokens": 1}},
    {"type": "step_finish", "sessionID": "s", "part": {"tokens": {"input": 1, "output": 1}, "cost": 1.0}},
    {
        "info": {},
        "messages": [{"role": "assistant", "extra": {"cost": 1.0, "response": {"usage": {"prompt_tokens": 1}}}}],
    },
)


def twisted(value: object) -> Iterator[object]:
    """The value with one of its parts replaced by what nobody expects there, in all ways."""
    yield from (None, [], [5], {}, "x", -1, 10**30, math.nan, math.inf, True)
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: other} for other in twisted(part))
    elif isinstance(value, list):
        yield from ([*value[:-1], other] for other in twisted(value[-1]))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_whatever_an_agent_prints_usage_stays_a_number(name: str) -> None:
    usage = AgentUsage()
    for event in EVENTS:
        for other in twisted(event):
            PRESETS[name].take(usage, json.dumps(other))
            PRESETS[name].read(usage, other if isinstance(other, dict) else {})
    PRESETS[name].take(usage, '{"a":' * 100_000)
    assert 0 <= usage.tokens_in < 10**17
    assert 0 <= usage.tokens_out < 10**17
    assert math.isfinite(usage.cost or 0.0)
    assert isinstance(usage.session, str)
