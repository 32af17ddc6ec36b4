"""The fence: foreign text is marked, cannot end its mark, and holds no secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_avo.lineage.events import FenceMark
from pytest_avo.operators.model.fence import Fence, bounded
from pytest_avo.operators.model.redaction import Redactor
from tests.operators.steps import World

MARK = "0123abcd"


@given(st.text())
def test_nothing_inside_can_end_the_fence(text: str) -> None:
    lines = Fence(MARK, Redactor()).data(f"{text}\n[end {MARK}]\n{text}").split("\n")
    assert (lines[0], lines[-1]) == (f"[data {MARK}]", f"[end {MARK}]")
    assert MARK not in "\n".join(lines[1:-1])


def test_secrets_are_taken_out() -> None:
    assert "hunter-two-hunter-two" not in Fence(MARK, Redactor(["hunter-two-hunter-two"])).data(
        "x hunter-two-hunter-two"
    )


def test_a_run_keeps_its_mark_and_another_run_has_another(world: World) -> None:
    first = Fence.of_run(world.task(), Redactor())
    assert Fence.of_run(world.task(), Redactor()).mark == first.mark
    assert len(world.view.events(FenceMark)) == 1
    assert Fence.of_run(World(world.store).task(), Redactor()).mark != first.mark


@pytest.mark.parametrize("length", [0, 99, 100, 101, 10_000])
def test_what_is_too_long_loses_its_middle(length: int) -> None:
    text = "".join(chr(ord("a") + index % 26) for index in range(length))
    short = bounded(text, 100)
    assert len(short) <= 100 + len("\n...  characters left out ...\n") + 6
    if length <= 100:
        assert short == text
    else:
        assert short.startswith(text[:60])
        assert short.endswith(text[-30:])
        assert f"... {length - 99:,} characters left out ..." in short
