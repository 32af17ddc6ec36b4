"""Transcripts: small, whole after a kill, free of failed calls when read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.model.client import Exchange
from pytest_avo.operators.model.transcript import Transcript, recorded

TOOLS = [{"type": "function", "function": {"name": "submit"}}]


def message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def exchange(*texts: str, answer: str | None = "ok") -> Exchange:
    return Exchange(
        request={"model": "m", "messages": [message(text) for text in texts], "tools": TOOLS},
        response=None if answer is None else {"answer": answer},
        error="EndpointFailed: boom" if answer is None else None,
        started_unix_s=1.0,
        duration_s=2.0,
    )


def write(path: Path, *exchanges: Exchange) -> None:
    transcript = Transcript(path)
    for each in exchanges:
        transcript.append("step", each)
    transcript.close()


def test_a_conversation_is_kept_once_and_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "gen.jsonl"
    write(path, exchange("a", "b"), exchange("a", "b", "c", answer="two"), exchange("a", "shortened", answer="three"))
    text = path.read_text()
    assert (text.count('"content":"a"'), text.count('"name":"submit"'), text.count("\n")) == (1, 1, 3)
    found = recorded(path, "step")
    assert [each.messages for each in found] == [
        [message("a"), message("b")],
        [message("a"), message("b"), message("c")],
        [message("a"), message("shortened")],
    ]
    assert [each.response["answer"] for each in found] == ["ok", "two", "three"]


def test_failed_calls_are_in_the_file_but_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "gen.jsonl"
    write(path, exchange("a"), exchange("a", "b", answer=None), exchange("a", "b", answer="at last"))
    assert "EndpointFailed: boom" in path.read_text()
    assert [each.response["answer"] for each in recorded(path, "step")] == ["ok", "at last"]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "gen.jsonl"
    write(path, exchange("a"), exchange("a", "b", answer="two"))
    path.write_bytes(path.read_bytes()[:-20])
    assert len(recorded(path, "step")) == 1
    write(path, exchange("a", "c", answer="again"))
    assert [each.messages[-1] for each in recorded(path, "step")] == [message("a"), message("c")]


def test_kinds_are_conversations_of_their_own(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "gen.jsonl")
    transcript.append("supervisor", exchange("review"))
    transcript.append("step", exchange("work"))
    transcript.append("supervisor", exchange("review", "again", answer="two"))
    transcript.close()
    assert [each.messages[0] for each in recorded(tmp_path / "gen.jsonl", "supervisor")] == [message("review")] * 2
    assert len(recorded(tmp_path / "gen.jsonl", "step")) == 1


def test_no_file_is_no_exchange_and_another_file_is_an_error(tmp_path: Path) -> None:
    assert recorded(tmp_path / "none.jsonl", "step") == []
    (tmp_path / "other.jsonl").write_text('{"kind": "step"}\n')
    with pytest.raises(InvalidInput, match=r"other.jsonl, line 1: expected an exchange"):
        recorded(tmp_path / "other.jsonl", "step")
