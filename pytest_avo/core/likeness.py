"""When two kernel sources are the same kernel: sources without what does not run."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from functools import lru_cache

_WARNINGS_LOCK = threading.Lock()
_IGNORED_LINE = re.compile(r"\s*(#.*)?")


@lru_cache(maxsize=64)  # of a candidate when it is proposed, and once more when it is what later ones may repeat
def normalised(source: str) -> str:
    """The source without comments (provenance lines among them), blank lines, docstrings and layout.

    Two sources with the same normalised text run the same program. Docstrings stay where the source names `__doc__`,
    since a kernel may then read them. A source that does not parse only loses its blank and comment lines.
    """
    try:
        tree = _parsed(source)
        if "__doc__" not in source:
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    _drop_docstring(node)
        return ast.unparse(tree) + "\n"
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two by nesting
        return "".join(f"{line.rstrip()}\n" for line in source.splitlines() if not _IGNORED_LINE.fullmatch(line))


def _parsed(source: str) -> ast.Module:
    # A candidate's "invalid escape sequence" is no concern of the user's run; catch_warnings itself is not thread-safe.
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(source)


def _drop_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            node.body = rest or ([] if isinstance(node, ast.Module) else [ast.Pass()])
