"""What keeps the package easy to live in: small functions, folders that one can look over, a test beside a module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo import PACKAGE
from tests import ROOT

MOST_LINES = 60
MOST_MODULES = 14
MOST_AT_TOP = 4
TESTED = ("core", "evolution", "gate", "operators")
"""Folders whose modules each have a test file in the same place below tests/."""
UNTESTED = {  # modules, or folders that end with a slash
    "core/errors.py": "two exceptions without code",
    "evolution/plan.py": "compared when a run is resumed, in evolution/test_loop.py",
    "evolution/fixed_arm.py": "decides in evolution/test_settlement.py",
    "evolution/hooks.py": "a protocol without code",
    "gate/gate_settings.py": "a value without code",
    "operators/agent_settings.py": "a value without code",
    "operators/budget.py": "values; what they limit is tested in operators/test_ledger.py",
    "operators/entry.py": "values without code",
    "operators/shipped/": "entries, made and loaded in operators/test_catalogue.py",
    "operators/operator.py": "the protocol and its values; every test of an operator uses them",
    "operators/agent/context.py": "read by the scripted models of agent/test_agentic.py and agent/test_oneshot.py",
    "operators/external/": "tested as one, through a program that takes a candidate, in external/test_coding_agent.py",
    "operators/tools/draft_calls.py": "values; called as a model calls them in tools/test_draft_tools.py",
    "operators/tools/lineage_tools.py": "called as a model calls them in agent/test_agentic.py",
}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def folders() -> Iterator[Path]:
    yield from (path.parent for path in PACKAGE.rglob("__init__.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {node.name}": lines(node)
        for path in PACKAGE.rglob("*.py")
        for node in functions(path)
        if lines(node) > MOST_LINES
    }
    assert found == {}


def test_no_folder_holds_more_modules_than_one_can_look_over() -> None:
    found = {str(folder.relative_to(PACKAGE)): len(modules(folder)) for folder in folders()}
    assert {folder: count for folder, count in found.items() if count > MOST_MODULES} == {}
    assert len(modules(PACKAGE)) <= MOST_AT_TOP


def test_every_folder_says_what_lives_there() -> None:
    silent = [folder for folder in folders() if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))]
    assert silent == []


def test_names_in_docstrings_stand_in_single_backticks() -> None:
    def has_double(path: Path) -> bool:
        return any("``" in line.replace("```", "") for line in path.read_text(encoding="utf-8").splitlines())

    assert [str(path) for path in PACKAGE.rglob("*.py") if has_double(path)] == []


@pytest.mark.parametrize("folder", TESTED)
def test_every_module_has_its_test(folder: str) -> None:
    names = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / folder).rglob("*.py")}
    names = {name for name in names if not name.endswith("__init__.py")}
    tested = {name for name in names if (ROOT / "tests" / name).with_name(f"test_{Path(name).name}").exists()}
    exceptions = tuple(name for name in UNTESTED if name.startswith(f"{folder}/"))
    assert [name for name in sorted(names - tested) if not name.startswith(exceptions)] == []
    assert [name for name in exceptions if not (PACKAGE / name).exists()] == [], "exceptions for what is gone"
