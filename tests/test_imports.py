"""What a plain pytest pays for having the plugin installed: next to nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import ROOT

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("execnet", "msgspec", "numpy", "openai", "optuna", "sqlite3", "torch", "triton")
IMPORT = "import pytest_avo.plugin"
PLAIN_RUN = """
import contextlib, io, os, pytest
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
with contextlib.redirect_stdout(io.StringIO()):
    pytest.main(["-p", "pytest_avo.plugin", "-p", "no:cacheprovider"])
"""


def loaded_by(statements: str, *, folder: Path) -> list[str]:
    """Which of the heavy packages a fresh interpreter has imported after running some statements."""
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{statements}\n{report}"], cwd=folder, capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(ended.stdout)
    return found


def test_importing_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_by(IMPORT, folder=tmp_path) == []


def test_a_plain_pytest_run_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert True\n")
    assert loaded_by(PLAIN_RUN, folder=tmp_path) == []


def test_the_controller_of_a_run_leaves_torch_and_models_to_others(tmp_path: Path) -> None:
    """torch is imported by the workers, beside each other; openai and optuna by the operator that needs them."""
    assert set(loaded_by("import pytest_avo.session.start", folder=tmp_path)) <= {
        "execnet",
        "msgspec",
        "numpy",
        "sqlite3",
    }


def test_the_check_sees_a_heavy_import(tmp_path: Path) -> None:
    assert loaded_by("import pytest_avo.core.shape", folder=tmp_path) == ["msgspec"]


def test_a_plain_pytest_run_prints_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert True\n")

    def output(*options: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # others take longer to import than a run
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )  # fmt: skip
        # What pytest says of plugins and seconds differs by installation and by run, not by what ours prints.
        lines = ended.stdout.splitlines()
        return "\n".join(line for line in lines if not line.startswith(("plugins:", "rootdir:")) and " in " not in line)

    with_ours = output("-p", "avo")
    assert with_ours == output()
    assert "collected 1 item" in with_ours
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["test_one.py"], "no .avo"


@pytest.mark.parametrize("name", ["conftest.py", "tests/__init__.py", "tests/conftest.py"])
def test_what_every_run_in_this_project_reads_needs_no_package_of_the_tests(name: str) -> None:
    """An evolution here, README's first command, reads them where the extra `test` is not installed."""
    imported = set()
    for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported <= {*sys.stdlib_module_names, "pytest"}
