"""What operators may answer: they are anybody's code, and what the lineage keeps stays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pytest_avo.operators.answer import checked, storable
from pytest_avo.operators.operator import Proposal

NAN = math.nan


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("def attention(): ...", "expected a Proposal or None, got str 'def attention"),
        ({"source": "x"}, "expected a Proposal or None, got dict"),
        (Proposal(b"x", "why"), "Proposal.source: expected a text, got bytes b'x'"),  # type: ignore[arg-type]
        (Proposal("x", None), "Proposal.hypothesis: expected a text, got NoneType None"),  # type: ignore[arg-type]
        (Proposal("x", "", predicted=[1.05]), "Proposal.predicted: expected shape ids, or"),  # type: ignore[arg-type]
        (Proposal("x", "", predicted={"geomean": "5%"}), "key geomean: expected a number, got str '5%'"),  # type: ignore[dict-item]
        (Proposal("x", "", tokens_in=1.5), "Proposal.tokens_in: expected a whole number, got float 1.5"),  # type: ignore[arg-type]
        (Proposal("x", "", tokens_out=10**30), "Proposal.tokens_out: expected a number from 0 to"),
        (Proposal("x", "", tokens_out=-1), "Proposal.tokens_out: expected a number from 0 to"),
        (Proposal("x", "", cost=NAN), "Proposal.cost: expected a number of at least zero, got nan"),
        (Proposal("x", "", failed=True), "Proposal.failed: expected a text, got bool True"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_no_proposal_is_named(answer: object, expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        checked(answer)
    assert expected in str(caught.value)


def test_numbers_become_pythons_own_and_ratios_that_are_none_are_left_out() -> None:
    predicted: dict[Any, Any] = {"geomean": np.float32(1.5), "a": NAN, "b": math.inf, "c": 0, "d": -1.0, 5: 2}
    found = checked(Proposal("x", "why", predicted=predicted, tokens_in=np.int64(7), cost=np.float64(0.5)))  # type: ignore[arg-type]
    assert found == Proposal("x", "why", predicted={"geomean": 1.5, "5": 2.0}, tokens_in=7, cost=0.5)
    assert type(found.tokens_in) is int
    assert {type(ratio) for ratio in found.predicted.values()} == {float}
    assert checked(None) is None


def test_what_is_stored_reads_as_the_promoted_file_will() -> None:
    assert storable(Proposal("\ufeffx = 1\r\n", "why")).source == "x = 1\n"
    assert storable(Proposal("# coding: ascii\nx = '→'\n", "")).source == "# coding: utf-8\nx = '→'\n"
    spelled = storable(Proposal("x", "a\0b"))
    assert (spelled.hypothesis, spelled.failed) == ("a\\x00b", "")
    assert storable(Proposal("x", "half \ud800")).failed == "its text holds characters that no file can"


def test_what_nobody_would_read_to_its_end_is_cut() -> None:
    found = storable(Proposal("x" * 10_000, "why " * 250_000, lesson="so"))
    assert found.hypothesis == "why " * 1000 + " … (1,000,000 characters)"
    assert (found.source, found.lesson) == ("x" * 10_000, "so")
