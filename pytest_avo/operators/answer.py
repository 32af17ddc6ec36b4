"""Checks an operator's answer and makes it fit to be stored: operators are anybody's code, the lineage is for good."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_avo.core.disk.text_form import as_read_back, decoded
from pytest_avo.operators.operator import Proposal

LARGEST = 2**63 - 1
"""SQLite's integers end there."""
LONGEST_SOURCE = 2_000_000
"""Bytes of a candidate's file."""
LONGEST_WORDS = 4000
"""Characters of a hypothesis, a lesson, a reason."""
TEXTS = ("source", "hypothesis", "lesson", "failed")


def checked(answer: object) -> Proposal | None:
    """The answer, its numbers Python's own; TypeError or ValueError says what it has that no proposal can have.

    A predicted ratio that is none, as a model may send it, is left out.
    """
    if answer is None:
        return None
    if not isinstance(answer, Proposal):
        raise TypeError(f"expected a Proposal or None, got {_named(answer)}")
    for name in TEXTS:
        if not isinstance(found := getattr(answer, name), str):
            raise TypeError(f"Proposal.{name}: expected a text, got {_named(found)}")
    numbers: dict[str, Any] = {name: _count(name, getattr(answer, name)) for name in ("tokens_in", "tokens_out")}
    cost = _number("cost", answer.cost)
    if not (math.isfinite(cost) and cost >= 0):
        raise ValueError(f"Proposal.cost: expected a number of at least zero, got {cost}")
    return replace(answer, predicted=_ratios(answer.predicted), cost=cost, follows=bool(answer.follows), **numbers)


def storable(proposal: Proposal) -> Proposal:
    """The proposal with texts that files and the lineage can hold, its source as Python would read it from a file.

    It counts as failed where it has halves of characters. NUL is spelled out but in a source, where Python refuses it:
    no command line takes it, as --avo-commit makes one. What is longer than anybody reads is cut: tables, pages and
    later prompts have it whole.
    """
    texts = {name: getattr(proposal, name) for name in TEXTS}
    clean = {name: found.encode(errors="backslashreplace").decode() for name, found in texts.items()}
    if clean != texts:
        clean["failed"] = clean["failed"] or "its text holds characters that no file can"
    source = as_read_back(clean.pop("source"))
    spelled: dict[str, Any] = {name: _shortened(found.replace("\0", "\\x00")) for name, found in clean.items()}
    return replace(proposal, source=source, **spelled)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_WORDS:
        return text
    return f"{text[:LONGEST_WORDS]} … ({len(text):,} characters)"


def source_text(data: bytes) -> str:
    """The text of a candidate's file, as Python reads it; ValueError, of the file, where it could be no kernel."""
    if len(data) > LONGEST_SOURCE:
        raise ValueError(f"is longer than a kernel may be: expected at most {LONGEST_SOURCE:,} bytes")
    try:
        return decoded(data)
    except (SyntaxError, UnicodeDecodeError) as error:
        reason = str(error)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
    raise ValueError(f"is no UTF-8 text, nor in an encoding that it declares: {reason}")


def _ratios(predicted: object) -> dict[str, float]:
    if not isinstance(predicted, Mapping):
        raise TypeError(f"Proposal.predicted: expected shape ids, or geomean, and ratios, got {_named(predicted)}")
    ratios = {str(name): _number(f"predicted, key {name}", ratio) for name, ratio in predicted.items()}
    return {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio) and ratio > 0}


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(f"Proposal.{name}: expected a number, got {_named(value)}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"Proposal.{name}: expected a number, got {_named(value)}") from None


def _count(name: str, value: Any) -> int:
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"Proposal.{name}: expected a whole number, got {_named(value)}") from None
    if not 0 <= found <= LARGEST:
        raise ValueError(f"Proposal.{name}: expected a number from 0 to {LARGEST}, got {found}")
    return found


def _named(value: object) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:40] + '…'}"
