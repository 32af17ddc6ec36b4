"""What processes of this package import, whatever lies around."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_avo import PACKAGE
from pytest_avo.evaluation.linux import python
from pytest_avo.evaluation.linux.sandbox import offered_layers
from pytest_avo.evaluation.pool.gateway import with_own_modules

STANDARD = ("nt", "pwd", "random", "signal", "copy", "profile", "statistics", "inspect", "torch", "msgspec", "ctypes")


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the present one, whose files are called like modules of others."""
    for name in STANDARD:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user ran')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("variable", ["", ".", ":", f":{PACKAGE.parent}", f".:{PACKAGE.parent}:"])
def test_files_in_the_present_folder_are_never_imported(
    shadowed: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", variable)
    assert offered_layers()
    assert all(os.path.isabs(folder) for folder in python.folders())


def test_the_users_folders_are_kept_and_the_package_is_found_first() -> None:
    root = str(PACKAGE.parent)
    assert python.folders("/a::/b:.:src", installed=[]) == [root, "/a", "/b"]
    assert python.folders("", installed=[root]) == [], "what is installed does not come before the standard library"
    assert python.folders(root, installed=[]) == [root]


def test_a_worker_of_this_machine_heeds_no_variables_and_not_the_present_folder(shadowed: Path) -> None:
    spec = with_own_modules("popen//id=gw1")
    assert spec.startswith("popen//id=gw1//python=")
    command = spec.partition("python=")[2].split()
    code = "import sys; print('' in sys.path, sys.flags.ignore_environment, sys.flags.safe_path)"
    said = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False 1 True\n"


@pytest.mark.parametrize("spec", ["ssh=host//python=python3.12", "socket=host:1", "popen//via=gw0"])
def test_other_hosts_start_their_own_python(spec: str) -> None:
    assert with_own_modules(spec) == spec


def test_the_python_that_a_user_names_is_the_one() -> None:
    assert with_own_modules("popen//python=python3.12") == "popen//python=python3.12 -E -P"
