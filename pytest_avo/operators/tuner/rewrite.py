"""Source edits of tunables: the literals on the right of their assignments, and not a byte more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pytest_avo.core.kernel import Literal, assignment
from pytest_avo.core.source import without_provenance

# The line ends that Python's tokenizer knows. str.splitlines knows more (form feed, say) and would miscount.
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a literal stands in the text, in bytes of UTF-8, and its value."""

    begin: int
    end: int
    value: Literal


@dataclass(frozen=True, slots=True)
class Rewriter:
    """A kernel's source, parsed once, whose named module-level literals can be given other values.

    Provenance lines at the head, which speak of the text as it was, are dropped; comments, spacing and everything else
    stay as they are, and so does the spelling of a value that stands there already.
    """

    text: bytes
    spans: Mapping[str, Span]

    @classmethod
    def of(cls, source: str, names: Iterable[str]) -> Self:
        """Find the assignments of `names`; KeyError for a name without one."""
        text = without_provenance(source)
        tree = ast.parse(text)
        starts = [0]
        for line in LINE.findall(text):
            starts.append(starts[-1] + len(line.encode()))
        return cls(text.encode(), {name: _span(tree, name, starts) for name in names})

    def with_values(self, values: Mapping[str, Literal]) -> str:
        """The source in which every name has its value of `values`; names left out keep theirs."""
        text = self.text
        for name in sorted(values, key=lambda name: self.spans[name].begin, reverse=True):
            span, value = self.spans[name], values[name]
            if value != span.value or type(value) is not type(span.value):
                text = text[: span.begin] + spelled(value).encode() + text[span.end :]
        return text.decode()


def spelled(value: Literal) -> str:
    """A literal as a kernel's author would write it: double quotes where they need no escapes."""
    if isinstance(value, str) and value.isprintable() and not set('"\\') & set(value):
        return f'"{value}"'
    return repr(value)


def _span(tree: ast.Module, name: str, starts: list[int]) -> Span:
    node = assignment(tree, name)
    if node is None or node.end_lineno is None or node.end_col_offset is None:
        raise KeyError(name)
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return Span(begin, end, ast.literal_eval(node))
