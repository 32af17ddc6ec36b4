"""The text of a kernel: its identity, and the comment lines at its head that say where it comes from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from pytest_avo.core.disk.text_form import COOKIE

PROVENANCE = "# avo: "
"""What the comment lines begin with that a promotion writes."""


def source_digest(source: str) -> str:
    """Identity of a kernel's text: SHA-256, 16 hex digits, provenance lines left out."""
    return hashlib.sha256(without_provenance(source).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_digest(source: str) -> str:
    """Identity of a text to the last character: SHA-256, 32 hex digits.

    Two kernels with one program may still read their own files. Who has the same is served by the same process: two
    texts that have 16 digits alike can be found in minutes.
    """
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def without_provenance(source: str) -> str:
    """The source less the comment lines that a promotion wrote at its head."""
    lines = _lines(source)
    head = _head(lines)
    start = head
    while start < len(lines) and lines[start].startswith(PROVENANCE):
        start += 1
    return "".join(lines[:head] + lines[start:])


def with_provenance(source: str, comments: Sequence[str]) -> str:
    """The source with these lines in the place of those of an earlier promotion."""
    lines = _lines(without_provenance(source))
    head = _head(lines)
    return "".join([*lines[:head], *(f"{comment}\n" for comment in comments), *lines[head:]])


def _lines(source: str) -> list[str]:
    """The lines as Python sees them, ends included: a form feed ends no comment, and what follows it is no code."""
    return list(io.StringIO(source, newline=""))


def _head(lines: Sequence[str]) -> int:
    """How many lines have to stay the first: an interpreter's path, and the declaration of the file's encoding."""
    first, second = [line if line.endswith("\n") else "" for line in [*lines, "", ""][:2]]
    if first.startswith(PROVENANCE):
        return 0
    if COOKIE.match(second) and not COOKIE.match(first) and first.strip()[:1] in ("", "#"):
        return 2
    return 1 if first.startswith("#!") or COOKIE.match(first) else 0
