"""A kernel of the self-test as its docstring describes it: what it tries, and what a harness must make of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Literal, get_args

import msgspec

from pytest_avo.core.disk.text_form import decoded
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Limits, Outcome

Expectation = Literal["incorrect", "cheating", "crash", "timeout", "refused", "score_true", "contained", "accept"]
"""score_true: right, and no faster than honest kernels; contained: no side effect, whatever the verdict; accept: an
honest kernel, which must be found right."""
WORDS: dict[Outcome, Expectation] = {
    "incorrect": "incorrect",
    "rejected": "cheating",
    "crashed": "crash",
    "timeout": "timeout",
    "unsupported": "refused",
}
"""What an outcome that is not ok is called in EXPECT."""
_FIELD = re.compile(r"^([A-Z]{4,8}):[ ]*(.*(?:\n(?![A-Z]{4,8}:).*)*)", re.MULTILINE)


class Cheat(msgspec.Struct, frozen=True):
    """One kernel of the corpus."""

    path: Path
    source: str
    kind: str
    """The class it belongs to: "late work", "honest"."""
    expect: frozenset[Expectation]
    target: str = "any"
    """"cpu" or "gpu" for what makes sense on one of them only."""
    suite: str = "selftest"
    """Of the shapes that it is called on."""
    limits: Limits | None = None
    """Limits of its own, so that a hang does not take minutes."""


def read_cheat(path: Path) -> Cheat:
    """Read the fields CLASS, EXPECT, TARGET, SUITE and LIMITS of a docstring; InvalidInput where EXPECT is no good."""
    try:
        source = decoded(path.read_bytes())
        text = ast.get_docstring(ast.parse(source)) or ""
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"{path}: cannot be read as a kernel of the self-test: {error}") from None
    fields = {name: " ".join(value.split()) for name, value in _FIELD.findall(text)}
    return Cheat(
        path=path,
        source=source,
        kind=fields.get("CLASS") or path.stem.partition("_")[2].replace("_", " ") or path.stem,
        expect=_expect(path, fields.get("EXPECT", "")),
        target=_target(path, fields.get("TARGET", "any")),
        suite=fields.get("SUITE", "selftest"),
        limits=_limits(path, fields["LIMITS"]) if "LIMITS" in fields else None,
    )


def describes_cheat(path: Path) -> bool:
    """Whether a file found in a folder says what is expected of it."""
    try:
        return b"EXPECT:" in path.read_bytes()
    except OSError:
        return False


def _expect(path: Path, text: str) -> frozenset[Expectation]:
    words = [word for word in text.partition("(")[0].replace(" ", "").split("|") if word]
    known: tuple[Expectation, ...] = get_args(Expectation)
    found = frozenset(name for name in known if name in words)
    if not words or len(found) < len(set(words)):
        got = repr(text) if text else "none"
        raise InvalidInput(f"{path}: docstring, key EXPECT: expected some of {'|'.join(known)}, got {got}")
    return found


def _target(path: Path, text: str) -> str:
    if text not in ("any", "cpu", "gpu"):
        raise InvalidInput(f"{path}: docstring, key TARGET: expected any, cpu or gpu, got {text!r}")
    return text


def _limits(path: Path, text: str) -> Limits:
    try:
        given = {phase.strip(): float(value) for phase, _, value in (part.partition("=") for part in text.split(","))}
        return msgspec.convert(given, Limits)
    except (ValueError, msgspec.ValidationError):
        raise InvalidInput(
            f"{path}: docstring, key LIMITS: expected build, check and time in seconds, as in build=5,check=3, "
            f"got {text!r}"
        ) from None
