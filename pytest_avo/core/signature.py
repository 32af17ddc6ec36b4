"""Whether a source offers attention() as kernels have to, as far as that can be seen without running it."""

from __future__ import annotations

import ast

EXPECTED = "expected def attention(q, k, v, *, causal, scale)"
NAME = "attention"
_TENSORS, _OPTIONS = ("q", "k", "v"), {"causal", "scale"}
_HIDDEN = {"exec", "eval", "globals", "vars", "setattr", "locals"}
"""What may bind a name that nothing in the source shows."""


def flaw(source: str) -> str:
    """Why no call of attention() can go well, or "". A source that does not parse has a fault of its own."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    plain = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == NAME]
    bound = _bindings(tree)
    if not bound and not _binds_unseen(tree):
        return f"has no attention: {EXPECTED}"
    if len(bound) == 1 and len(plain) == 1 and not plain[0].decorator_list:
        return _wrong_signature(plain[0])
    return ""


def _bindings(tree: ast.Module) -> list[ast.AST]:
    """Everything that gives the name a value, at whatever depth."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_bound = node.name == NAME
        elif isinstance(node, ast.alias):
            is_bound = (node.asname or node.name.partition(".")[0]) == NAME
        else:
            is_bound = isinstance(node, ast.Name) and node.id == NAME and isinstance(node.ctx, ast.Store)
        found += [node] if is_bound else []
    return found


def _binds_unseen(tree: ast.Module) -> bool:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & _HIDDEN) or any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree))


def _wrong_signature(function: ast.FunctionDef) -> str:
    takes = function.args
    positional = [argument.arg for argument in (*takes.posonlyargs, *takes.args)]
    only_by_name = {argument.arg for argument in takes.kwonlyargs}
    by_name = {argument.arg for argument in takes.args} | only_by_name
    if len(positional) < len(_TENSORS) and takes.vararg is None:
        return f"attention takes {len(positional)} positional arguments: {EXPECTED}"
    if takes.kwarg is None and (missing := sorted(_OPTIONS - by_name)):
        return f"attention does not take {' and '.join(missing)}: {EXPECTED}"
    needed = positional[len(_TENSORS) : len(positional) - len(takes.defaults)] if takes.defaults else positional[3:]
    needed += [a.arg for a, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None]
    if other := [name for name in needed if name not in _OPTIONS]:
        return f"attention wants {', '.join(other)} too: {EXPECTED}"
    return ""
