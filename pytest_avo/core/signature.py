"""Whether a source offers the functions that kernels have to, as far as that can be seen without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from pytest_avo.core.kernel import Claim

_HIDDEN = {"exec", "eval", "globals", "vars", "setattr", "locals"}
"""What may bind a name that nothing in the source shows."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of a kernel: its tensors by position, all else by name; switches may be left out, which is False."""

    name: str
    tensors: tuple[str, ...]
    options: tuple[str, ...]
    switches: tuple[str, ...] = ()

    def __str__(self) -> str:
        by_name = (*self.options, *(f"{switch}=False" for switch in self.switches))
        return f"def {self.name}({', '.join(self.tensors)}, *, {', '.join(by_name)})"


ATTENTION = Signature("attention", ("q", "k", "v"), ("causal", "scale"))
VARLEN = Signature(
    "attention_varlen",
    ("q", "k", "v"),
    ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "causal", "scale"),
)
PAGED = Signature("attention_paged", ("q", "k_cache", "v_cache"), ("block_table", "cache_seqlens", "causal", "scale"))
LSE = "return_lse"
"""The switch of all of them where a claim has `lse`."""


def signatures(claim: Claim | None) -> tuple[Signature, ...]:
    """The functions that a kernel must have by its claim; one that claims nothing has `attention` alone."""
    if claim is None:
        return (ATTENTION,)
    wanted = [ATTENTION, *([VARLEN] if claim.varlen else []), *([PAGED] if claim.paged else [])]
    return tuple(replace(each, switches=(LSE,)) for each in wanted) if claim.lse else tuple(wanted)


def flaw(source: str, claim: Claim | None = None) -> str:
    """Why no call of a function that the claim asks for can go well, or "".

    A source that does not parse has a fault of its own.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return next(filter(None, (_flaw(tree, wanted, claim) for wanted in signatures(claim))), "")


def _flaw(tree: ast.Module, wanted: Signature, claim: Claim | None) -> str:
    plain = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == wanted.name]
    bound = _bindings(tree, wanted.name)
    found = ""
    if not bound and not _binds_unseen(tree):
        found = f"has no {wanted.name}"
    elif len(bound) == 1 and len(plain) == 1 and not plain[0].decorator_list:
        found = _difference(plain[0], wanted)
    return f"{found}: expected {wanted}{_reason(wanted, claim)}" if found else ""


def _reason(wanted: Signature, claim: Claim | None) -> str:
    """Which keys of the claim ask for a signature that is not the usual one."""
    keys = {VARLEN.name: ["varlen"], PAGED.name: ["paged"]}.get(wanted.name, [])
    keys += ["lse"] if claim is not None and claim.lse else []
    return f", as AVO says (key {' and '.join(keys)})" if keys else ""


def _bindings(tree: ast.Module, name: str) -> list[ast.AST]:
    """Everything that gives a name a value, at whatever depth."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_bound = node.name == name
        elif isinstance(node, ast.alias):
            is_bound = (node.asname or node.name.partition(".")[0]) == name
        else:
            is_bound = isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        found += [node] if is_bound else []
    return found


def _binds_unseen(tree: ast.Module) -> bool:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & _HIDDEN) or any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree))


def _difference(function: ast.FunctionDef, wanted: Signature) -> str:
    takes, tensors, options = function.args, wanted.tensors, {*wanted.options, *wanted.switches}
    positional = [argument.arg for argument in (*takes.posonlyargs, *takes.args)]
    only_by_name = {argument.arg for argument in takes.kwonlyargs}
    by_name = {argument.arg for argument in takes.args} | only_by_name
    if len(positional) < len(tensors) and takes.vararg is None:
        return f"{wanted.name} takes {len(positional)} positional arguments"
    if takes.kwarg is None and (missing := sorted(options - by_name)):
        return f"{wanted.name} does not take {' and '.join(missing)}"
    needed = positional[len(tensors) : len(positional) - len(takes.defaults)] if takes.defaults else positional[3:]
    needed += [a.arg for a, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None]
    if other := [name for name in needed if name not in wanted.options]:
        return f"{wanted.name} wants {', '.join(other)} too"
    return ""
