"""A kernel file as the harness sees it: text and the literals it declares, read with ast and never imported."""

from __future__ import annotations

import ast
import codecs
import math
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from pytest_avo.core.disk.text_form import decoded
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.source import source_digest

Literal = bool | int | float | str
TARGETS = ("cpu", "sm80", "sm90", "sm100")
_MOST_BITS = 63
"""The largest integers in literals: databases and JSON hold no larger ones."""
_PYTHON = {"object": "dict", "array": "list", "null": "None"}
"""What msgspec calls by JSON's names."""
_CLAIM_LINE = re.compile(rb"^AVO[ \t]*(:[^=\r\n]*)?=[^=]", re.MULTILINE)


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The module-level `AVO` literal: target, the suites a kernel must pass, and what it does beside the plain call."""

    target: str
    shapes: tuple[str, ...]
    lse: bool = False
    """Every function takes `return_lse` and returns the log-sum-exp of the scores too."""
    varlen: bool = False
    """The kernel has `attention_varlen`, for sequences of different lengths packed one behind the other."""
    paged: bool | Annotated[int, msgspec.Meta(ge=1, le=256)] = False
    """The kernel has `attention_paged`, for keys and values in blocks: of any size, or of multiples of so many
    tokens."""

    def __str__(self) -> str:
        """As it stands in reports: `target cpu, suites smoke, with lse, paged (blocks of 16)`."""
        more = [name for name, claimed in (("lse", self.lse), ("varlen", self.varlen)) if claimed]
        more += [f"paged (blocks of {int(self.paged)})" if self.paged > 1 else "paged"] if self.paged else []
        return f"target {self.target}, suites {', '.join(self.shapes)}{', with ' if more else ''}{', '.join(more)}"


class Tunable(msgspec.Struct, frozen=True):
    """A module-level literal that an operator may change, with its present value and the values to choose from."""

    name: str
    value: Literal
    choices: tuple[Literal, ...]


class Kernel(msgspec.Struct, frozen=True):
    """One kernel file. `claim` is None where the file declares none; `fault` says why the source cannot be parsed."""

    path: Path
    source: str
    claim: Claim | None
    tunables: tuple[Tunable, ...]
    fault: str = ""

    @property
    def digest(self) -> str:
        return source_digest(self.source)

    @property
    def label(self) -> str:
        """The file's name as text that can be sent and stored."""
        return spelled_out(self.path.name)


def spelled_out(name: str) -> str:
    """A file's name with those of its bytes escaped that are no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_kernel(path: Path) -> Kernel:
    """Read `path`; InvalidInput when its literals are wrong, `fault` set when Python could not read it either."""
    try:
        source = decoded(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read as a kernel: {error.strerror or error}") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        text = path.read_bytes().decode("utf-8", "backslashreplace")
        return Kernel(path=path, source=text, claim=None, tunables=(), fault=f"syntax error: {_brief(error)}")
    return parse_kernel(source, path=path)


def parse_kernel(source: str, *, path: Path) -> Kernel:
    """A Kernel from its text."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        fault = _brief(error)
    except (ValueError, RecursionError, MemoryError) as error:  # the last two by nesting that no compiler takes either
        fault = str(error) or "nested too deeply"
    else:
        return _read_literals(tree, source, path)
    return Kernel(path=path, source=source, claim=None, tunables=(), fault=f"syntax error: {fault}")


@lru_cache(maxsize=8)  # once for all shapes of a kernel: to parse a long one takes 15 ms
def claim_of(source: str, *, path: Path) -> Claim | None:
    """What a text claims; None also where that cannot be read, which is said where the kernel is."""
    try:
        return parse_kernel(source, path=path).claim
    except InvalidInput:
        return None


def _read_literals(tree: ast.Module, source: str, path: Path) -> Kernel:
    literals = dict(_module_assignments(tree))
    claim = _claim(literals["AVO"], path) if "AVO" in literals else None
    tunables = _tunables(literals, path) if "TUNABLES" in literals else ()
    return Kernel(path=path, source=source, claim=claim, tunables=tunables)


def declares_claim(path: Path) -> bool:
    """Whether a file found in a folder is a kernel: it assigns `AVO` at module level. Cheap test first, then ast.

    A file that Python cannot read is one where a line looks like that assignment: it must not drop out unseen.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # which Python does not read, but shells write
            return _CLAIM_LINE.search(data[2:].replace(b"\0", b"")) is not None
        if b"AVO" not in data:
            return False
        return any(name == "AVO" for name, _ in _module_assignments(ast.parse(decoded(data))))
    except OSError:
        return False
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _CLAIM_LINE.search(data) is not None


def definition_line(path: Path) -> int:
    """The line on which a kernel file last defines `attention`; 1 where it cannot be told."""
    try:
        tree = ast.parse(decoded(path.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return 1
    lines = [node.lineno for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "attention"]
    return lines[-1] if lines else 1


def _brief(error: SyntaxError | UnicodeDecodeError) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})" if error.lineno else str(error.msg)
    return f"not {error.encoding}: {error.reason} at byte {error.start}"


def assignment(tree: ast.Module, name: str) -> ast.expr | None:
    """The value of the module-level assignment `name = ...`, or None."""
    return dict(_module_assignments(tree)).get(name)


def _module_assignments(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node.value))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.append((node.target.id, node.value))
    return found


def _literal(node: ast.expr, path: Path, name: str) -> object:
    try:
        found: object = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise InvalidInput(
            f"{path}, line {node.lineno}: {name} must be a literal, it is read without importing the file"
        ) from None
    if unfit := next(filter(None, map(_unfit, _leaves(found))), ""):
        raise InvalidInput(f"{path}, line {node.lineno}: {name}: expected what can be written down, got {unfit}")
    return found


def _leaves(value: object) -> Iterator[object]:
    """All values inside a literal, keys of dictionaries too."""
    pending = [value]
    while pending:
        match each := pending.pop():
            case dict():
                pending += [*each.keys(), *each.values()]
            case list() | tuple() | set():
                pending += each
            case _:
                yield each


def _unfit(value: object) -> str:
    """Why a value can be neither stored nor said, or ""."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return f"half of a character in {value!r}"
    return ""


def _claim(node: ast.expr, path: Path) -> Claim:
    expected = 'expected AVO = {"target": "cpu", "shapes": ["SUITE", ...]}, and "lse", "varlen", "paged" if it has them'
    try:
        claim = msgspec.convert(_literal(node, path, "AVO"), Claim)
    except msgspec.ValidationError as error:
        what, _, key = _in_words(error).partition(" - at $.")
        where = f"AVO, key {key}" if key else "AVO"
        raise InvalidInput(f"{path}, line {node.lineno}: {where}: {what}; {expected}") from None
    if claim.target not in TARGETS:
        raise InvalidInput(
            f"{path}, line {node.lineno}: AVO, key target: expected one of {', '.join(TARGETS)}, got {claim.target!r}"
        )
    if odd := next((name for name in claim.shapes if not name.isprintable()), None):
        raise InvalidInput(f"{path}, line {node.lineno}: AVO, key shapes: expected names of suites, got {odd!r}")
    if not claim.shapes:
        raise InvalidInput(f"{path}, line {node.lineno}: AVO, key shapes: expected at least one suite name")
    return claim


def _in_words(error: msgspec.ValidationError) -> str:
    """What msgspec says of a literal, in Python's words: `unknown key lsee`, `expected list, got str - at $.shapes`."""
    what, at, where = str(error).replace("`", "").partition(" - at ")
    if what.startswith("Expected "):
        what = re.sub(r"\b(object|array|null)\b", lambda found: _PYTHON[found[1]], what.replace("Expected", "expected"))
    else:
        what = what.removeprefix("Object contains ").removeprefix("Object ").replace(" field ", " key ", 1)
    said = f"{what}{at}{where}"
    return said if said.isprintable() else repr(said)


def _tunables(literals: dict[str, ast.expr], path: Path) -> tuple[Tunable, ...]:
    node = literals["TUNABLES"]
    try:
        table = msgspec.convert(_literal(node, path, "TUNABLES"), dict[str, list[Literal]])
    except msgspec.ValidationError as error:
        what, _, _ = _in_words(error).partition(" - at $")
        expected = 'expected TUNABLES = {"NAME": [values]}'
        raise InvalidInput(f"{path}, line {node.lineno}: TUNABLES: {what}; {expected}") from None
    found: list[Tunable] = []
    for name, choices in table.items():
        if name not in literals:
            key = name if name.isprintable() else repr(name)
            raise InvalidInput(
                f"{path}, line {node.lineno}: TUNABLES, key {key}: expected a module-level assignment {key} = ..."
            )
        value = _literal(literals[name], path, name)
        if not isinstance(value, (bool, int, float, str)):
            raise InvalidInput(
                f"{path}, line {literals[name].lineno}: {name}: expected a bool, number or string, got {value!r}"
            )
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise InvalidInput(
                f"{path}, line {node.lineno}: TUNABLES, key {name}: "
                f"expected its present value {value!r} among {choices}"
            )
        found.append(Tunable(name=name, value=value, choices=tuple(choices)))
    return tuple(found)
