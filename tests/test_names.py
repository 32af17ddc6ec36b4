"""A name of a type means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests import ROOT

BY_DESIGN = {
    "CompileReport",  # a tool, which a model sees by this name, and what an operator is given to ask for one
    "EvaluateDraft",  # a tool, which a model sees by this name, and what an operator is given to evaluate with
    "RaceDraft",  # likewise
    "Status",  # a tool too, and what became of an attempt
}


def test_no_two_types_share_a_name() -> None:
    places = defaultdict(list)
    for path in (ROOT / "pytest_avo").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            name = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.name)
            elif isinstance(name, ast.Name) and name.id[0].isupper() and not name.id.isupper():
                places[name.id].append(path.name)
    shared = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert set(shared) <= BY_DESIGN, shared
