"""The diff of an attempt to its parent, highlighted, as lines of escaped HTML."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from itertools import islice

from markupsafe import Markup
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Number, String, Token

CONTEXT = 3
CLASSES = ((Comment, "hc"), (Keyword, "hk"), (String, "hs"), (Number, "hn"), (Token.Name.Function, "hf"))
"""Kinds of tokens that are told apart; each further one costs bytes in every diff."""
LEXER = PythonLexer(stripnl=False, ensurenl=False)
LONGEST_LINE = 400


def diff(before: str, after: str, *, most_lines: int) -> Markup:
    """Hunks with three lines of context, cut after `most_lines`; "" where nothing differs."""
    lines = list(islice(_lines(before.splitlines(), after.splitlines()), most_lines + 1))
    if len(lines) > most_lines:
        lines[-1] = '<span class="hunk">… cut here: `avo show VERSION --diff` has it all</span>'
    return Markup("\n".join(lines))


@lru_cache(maxsize=20_000)
def highlighted(line: str) -> str:
    """A line of Python as escaped HTML. Line by line, since attempts have most lines in common."""
    parts = []
    for kind, value in LEXER.get_tokens(line[:LONGEST_LINE]):
        name = next((name for token, name in CLASSES if kind in token), "")
        text = escape(value)
        parts.append(f'<span class="{name}">{text}</span>' if name and value.strip() else text)
    return "".join(parts).rstrip("\n")


def _lines(old: list[str], new: list[str]) -> Iterator[str]:
    for hunk in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT):
        yield f'<span class="hunk">line {hunk[0][3] + 1}</span>'
        for tag, old_start, old_end, new_start, new_end in hunk:
            if tag == "equal":
                yield from (f" {highlighted(line)}" for line in new[new_start:new_end])
                continue
            yield from (f"<del>-{highlighted(line)}</del>" for line in old[old_start:old_end])
            yield from (f"<ins>+{highlighted(line)}</ins>" for line in new[new_start:new_end])
