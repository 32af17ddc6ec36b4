"""Directions that the user gives: what each member of the population is to try."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_avo.core.errors import InvalidInput

FILE = "file:"
"""Begins a direction that is the path of a file with one in each line. (An argument `@FILE` is pytest's own.)"""


def member_directions(given: Sequence[str]) -> list[str]:
    """The directions, those of `file:PATH` read from the file now; InvalidInput where it cannot be read."""
    found: list[str] = []
    for each in given:
        found += _lines(Path(each.removeprefix(FILE))) if each.startswith(FILE) else [each]
    return [" ".join(each.split()) for each in found if each.strip()]


def direction_of(member: int, given: Sequence[str]) -> str:
    """The direction of one member; empty where there are none. Fewer than members: from the first again."""
    found = member_directions(given)
    return found[member % len(found)] if found else ""


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"--avo-direction: {path} cannot be read: {reason}") from None
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]
