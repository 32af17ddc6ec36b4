"""Answers read from what a server sent, odd ones too."""

from __future__ import annotations

import json

import pytest

from pytest_avo.operators.model.chat import Finish, InvalidAnswer, ToolCall, Usage, estimated_tokens, parsed_answer


def completion(message: object, finish: str | None = "stop", **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}], **more}


def call(arguments: object, *, name: str = "evaluate", identity: str | None = "c1") -> dict[str, object]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_text_answer_with_usage() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    answer = parsed_answer(completion({"role": "assistant", "content": "hello"}, usage=usage), request_tokens=99)
    assert (answer.text, answer.finish, answer.tool_calls) == ("hello", Finish.STOP, ())
    assert answer.usage == Usage(tokens_in=11, tokens_out=7)


@pytest.mark.parametrize("tokens", [-1, 10**30, "many", None, 1.5])
def test_usage_that_is_no_figure_is_missing(tokens: object) -> None:
    response = {**completion({"content": "x"}), "usage": {"prompt_tokens": tokens, "completion_tokens": 7}}
    assert parsed_answer(response, request_tokens=99).usage == Usage(tokens_in=99, tokens_out=1)


def test_missing_usage_is_estimated() -> None:
    answer = parsed_answer(completion({"content": "x" * 30}), request_tokens=99)
    assert answer.usage == Usage(tokens_in=99, tokens_out=11)


@pytest.mark.parametrize("finish", ["tool_calls", "stop", None])
def test_tool_calls_decide_whatever_the_finish_reason_says(finish: str | None) -> None:
    answer = parsed_answer(completion({"content": None, "tool_calls": [call('{"a": 1}')]}, finish), request_tokens=1)
    assert answer.finish is Finish.TOOL_CALLS
    assert answer.tool_calls == (ToolCall("c1", "evaluate", '{"a": 1}'),)


def test_answer_cut_off_in_a_tool_call_is_a_length_stop() -> None:
    answer = parsed_answer(completion({"tool_calls": [call('{"a": ')]}, "length"), request_tokens=1)
    assert answer.finish is Finish.LENGTH
    assert answer.tool_calls[0].arguments == '{"a": '


@pytest.mark.parametrize(
    ("message", "finish"),
    [({"content": None, "refusal": "I cannot"}, "stop"), ({"content": "I cannot"}, "content_filter")],
)
def test_refusals(message: dict[str, object], finish: str) -> None:
    answer = parsed_answer(completion(message, finish), request_tokens=1)
    assert (answer.finish, answer.text) == (Finish.REFUSAL, "I cannot")


def test_missing_and_repeated_call_ids_are_made_distinct() -> None:
    calls = [call("{}", identity="a"), call("{}", identity="a"), call("{}", identity=None), call("{}", identity="")]
    answer = parsed_answer(completion({"tool_calls": calls}), request_tokens=1)
    assert [each.id for each in answer.tool_calls] == ["a", "call-2", "call-3", "call-4"]


def test_arguments_sent_as_an_object_become_text_and_nonsense_calls_are_dropped() -> None:
    answer = parsed_answer(completion({"tool_calls": [call({"a": 1}), "junk", {"id": "x"}]}), request_tokens=1)
    assert [each.arguments for each in answer.tool_calls] == ['{"a": 1}']


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, 3]
    assert parsed_answer(completion({"content": parts}), request_tokens=1).text == "one two"


def test_empty_answer_is_an_answer() -> None:
    answer = parsed_answer(completion({"content": None}), request_tokens=1)
    assert (answer.text, answer.finish) == ("", Finish.STOP)


@pytest.mark.parametrize(
    "response",
    [None, [], "hello", {}, {"choices": []}, {"choices": [{}]}, {"choices": "x"}, {"error": {"message": "overloaded"}}],
)
def test_no_completion_at_all(response: object) -> None:
    with pytest.raises(InvalidAnswer, match="expected a c"):
        parsed_answer(response, request_tokens=1)


def test_message_for_the_next_turn_repeats_the_calls_with_valid_arguments_only() -> None:
    calls = [call('{"a": 1}'), call('{"a": ', identity="c2"), call("[1]", identity="c3")]
    message = parsed_answer(completion({"content": "so", "tool_calls": calls}), request_tokens=1).message()
    sent = message["tool_calls"]
    assert isinstance(sent, list)
    assert [json.loads(each["function"]["arguments"]) for each in sent] == [
        {"a": 1},
        {"malformed_arguments": '{"a": '},
        {"malformed_arguments": "[1]"},
    ]
    assert message["role"] == "assistant"
    assert message["content"] == "so"


def test_reasoning_goes_back_as_it_came() -> None:
    signed = call("{}") | {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    given = {"content": None, "reasoning_content": "hm", "reasoning": None, "audio": None, "tool_calls": [signed]}
    message = parsed_answer(completion(given), request_tokens=1).message()
    assert message == {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [signed]}


def test_reasoning_counts_where_the_server_does_not() -> None:
    answer = parsed_answer(completion({"content": "x" * 30, "reasoning": "y" * 300}), request_tokens=99)
    assert answer.usage.tokens_out == 111


def test_an_empty_answer_is_repeated_as_a_text_that_servers_take() -> None:
    assert parsed_answer(completion({"content": None}), request_tokens=1).message()["content"] == "(empty)"


def test_estimate_grows_with_the_request() -> None:
    short = estimated_tokens([{"role": "user", "content": "x"}])
    assert 5 < short < 20
    assert estimated_tokens([{"role": "user", "content": "x" * 3000}]) == pytest.approx(short + 1000, abs=1)
