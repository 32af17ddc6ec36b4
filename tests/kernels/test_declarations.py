"""What every kernel file under kernels/ declares, read as the plugin reads it: from the source, never by importing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import ROOT

FILES = sorted((ROOT / "kernels").rglob("*.py"))


def literals(tree: ast.Module) -> dict[str, object]:
    """Return the module-level assignments of plain literals, by name."""
    found: dict[str, object] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue
    return found


def test_there_are_kernels() -> None:
    assert {"quickstart.py", "prefill.py", "decode.py"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_declares_its_claim_and_tunables(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a kernel says what it does and why it is fast"
    names = literals(tree)

    claim = names["AVO"]
    assert isinstance(claim, dict)
    assert claim["target"] == path.parent.name
    assert claim["shapes"]
    assert all((ROOT / f"shapes/{suite}.toml").is_file() for suite in claim["shapes"])

    tunables = names["TUNABLES"]
    assert isinstance(tunables, dict)
    assert tunables
    for name, candidates in tunables.items():
        assert names[name] in candidates, f"{name} = {names[name]!r} is not among its candidates {candidates}"
        assert len({repr(value) for value in candidates}) == len(candidates) > 1
