"""Edits of a draft held as text: exact search and replace, whole-file writes.

A search must match exactly and exactly once. Anything else is an `EditError` whose message is written for the model
that made the edit: it says what did not match and shows the nearest text with line numbers.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DRAFT_CHARS = 400_000
_SHOWN_LINES = 30
_WORD = re.compile(r"\w+|[^\w\s]")


class EditError(ValueError):
    """An edit that was not applied; the draft is unchanged and the message says why."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """One exact search and what takes its place."""

    search: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Edit:
    """The draft after an edit, and the unified diff that leads to it."""

    text: str
    diff: str


def apply(text: str, replacements: Sequence[Replacement]) -> Edit:
    """The draft with all replacements made in order, or `EditError` and none of them made."""
    if not replacements:
        raise EditError("no replacement given: expected at least one search text with its replacement")
    current = text
    for number, change in enumerate(replacements, start=1):
        place = f"replacement {number} of {len(replacements)}: " if len(replacements) > 1 else ""
        try:
            current = _replaced(current, change)
        except EditError as error:
            raise EditError(f"{place}{error}") from None
    return _edit(text, current)


def write(text: str, new: str) -> Edit:
    """The draft wholly replaced by `new`; an empty text, or the text as it already stands, is an `EditError`."""
    if not new.strip():
        raise EditError("the new file is empty: expected the whole source of the kernel")
    return _edit(text, new if new.endswith("\n") else new + "\n")


def unified_diff(before: str, after: str, *, before_name: str = "before", after_name: str = "after") -> str:
    """The unified diff between two sources with three lines of context, empty where they are equal."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), before_name, after_name, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _edit(before: str, after: str) -> Edit:
    if "\0" in after:
        raise EditError("the new text holds a NUL character, which no Python source may")
    if len(after) > MAX_DRAFT_CHARS:
        raise EditError(f"the new text has {len(after):,} characters, a draft may have {MAX_DRAFT_CHARS:,}")
    if before == after:
        raise EditError("the edit changes nothing: the draft already reads so")
    return Edit(text=after, diff=unified_diff(before, after, before_name="draft", after_name="draft, edited"))


def _replaced(text: str, change: Replacement) -> str:
    if not change.search:
        raise EditError("the search text is empty: expected text that occurs exactly once in the draft")
    if change.search == change.replacement:
        raise EditError("the search text and its replacement are the same")
    starts = _occurrences(text, change.search)
    if not starts:
        raise EditError(_no_match(text, change.search))
    if len(starts) > 1:
        lines = ", ".join(str(text.count("\n", 0, start) + 1) for start in starts)
        raise EditError(
            f"the search text occurs {len(starts)} times, starting at lines {lines}: "
            "add lines before or after it until it occurs once"
        )
    start = starts[0]
    return text[:start] + change.replacement + text[start + len(change.search) :]


def _occurrences(text: str, search: str) -> list[int]:
    """Every offset at which `search` occurs, overlapping ones too."""
    starts = []
    start = text.find(search)
    while start >= 0:
        starts.append(start)
        start = text.find(search, start + 1)
    return starts


def _no_match(text: str, search: str) -> str:
    if not text.strip():
        return "the search text does not occur: the draft is empty"
    first, found = _nearest(text.splitlines(), search.splitlines() or [search])
    message = "the search text does not occur in the draft"
    if [line.split() for line in found] == [line.split() for line in search.splitlines()]:
        message += " (the nearest text differs only in white space: copy it exactly)"
    shown = [f"{first + offset:>5} | {line}" for offset, line in enumerate(found[:_SHOWN_LINES])]
    if len(found) > _SHOWN_LINES:
        shown.append(f"      ... {len(found) - _SHOWN_LINES} more lines")
    listing = "\n".join(shown)
    last = first + len(found) - 1
    where = f"line {first}" if first == last else f"lines {first} to {last}"
    return f"{message}. Nearest text, {where}:\n{listing}"


def _nearest(lines: list[str], wanted: list[str]) -> tuple[int, list[str]]:
    """The run of lines most like `wanted`: its first line number and the lines.

    Shared words rank all runs cheaply; difflib, quadratic in length, decides among the best few only.
    """
    height = min(len(wanted), len(lines))
    words = [Counter(_WORD.findall(line)) for line in lines]
    target = sum((Counter(_WORD.findall(line)) for line in wanted), Counter[str]())
    window = sum(words[:height], Counter[str]())
    shared = []
    for first in range(len(lines) - height + 1):
        if first:
            window.subtract(words[first - 1])
            window.update(words[first + height - 1])
        common = sum(min(count, window[word]) for word, count in target.items())
        shared.append(2 * common / max(1, target.total() + window.total()))
    best = sorted(range(len(shared)), key=lambda first: (-shared[first], first))[:8]
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(_WORD.findall("\n".join(wanted)))

    def ratio(first: int) -> float:
        matcher.set_seq1(_WORD.findall("\n".join(lines[first : first + height])))
        return matcher.ratio()

    chosen = max(best, key=lambda first: (ratio(first), -first))
    return chosen + 1, lines[chosen : chosen + height]
