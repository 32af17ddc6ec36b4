"""The lineages that verbs look back into: found around the current folder, and answers where one cannot be read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pytest_avo.command.connection import NoStep, here
from pytest_avo.operators.external.wire import USAGE, WRONG, Reply

LINEAGE = Path(".avo", "lineage.sqlite3")
Verb = Callable[[argparse.Namespace], Reply]


def lineage_path() -> Path:
    """The lineage of the project around the current folder; NoStep where there is none."""
    start = here()
    for folder in (start, *start.parents):
        if (folder / LINEAGE).is_file():
            return folder / LINEAGE
    raise NoStep(f"there is no {LINEAGE} here or above: expected the folder of a project with a run", status=USAGE)


def run_number(text: str) -> int:
    """A run's number on the command line."""
    return _whole(text, expected="the number of a run, from 1")


def how_many(text: str) -> int:
    """How many of something, at least one."""
    return _whole(text, expected="how many, from 1")


def answered(verb: Verb) -> Verb:
    """The verb, with an answer where what it was asked for is not there or cannot be read."""

    def answer(given: argparse.Namespace) -> Reply:
        from pytest_avo.core.errors import InvalidInput
        from pytest_avo.lineage.database import UnreadableLineage
        from pytest_avo.operators.knowledge.versions import UnknownVersion

        try:
            return verb(given)
        except (InvalidInput, UnknownVersion, UnreadableLineage) as error:
            return Reply(text=f"error: {error}", status=WRONG)

    return answer


def _whole(text: str, *, expected: str) -> int:
    # SQLite's integers have 19 digits.
    if not (text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return int(text)
