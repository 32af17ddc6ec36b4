"""Folders for what is no project's, on machines as they are."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_avo.core.disk import places
from pytest_avo.core.disk.places import cache_folder, cached, home, scratch_folder
from pytest_avo.core.errors import InvalidInput


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a temporary folder of this test's own, as an ordinary user sees them."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def unwritable(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Have these folders refuse to be written, which root's never do."""
    access = os.access
    mine = {str(folder) for folder in folders}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in mine and access(path, mode))


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "home" / ".cache" / "pytest-avo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "pytest-avo"


@pytest.mark.parametrize("value", ["/proc/nowhere", "/dev/null"])
def test_without_a_home_that_can_be_written_the_temporary_folder_has_one_for_each_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HOME", value)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    found = cache_folder()
    assert found == tmp_path / "tmp" / f"pytest-avo-cache-{os.getuid()}"
    assert found.stat().st_mode & 0o077 == 0


def test_a_user_whom_the_system_does_not_know_has_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert home() is None
    assert cache_folder().parent == tmp_path / "tmp"


def test_what_a_read_only_cache_holds_is_read_and_the_rest_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = cache_folder()
    (usual / "noise-1.json").write_text("{}")
    unwritable(monkeypatch, usual)
    assert cache_folder().parent == tmp_path / "tmp"
    assert cached("noise-1.json") == usual / "noise-1.json"
    assert cached("noise-2.json").parent == cache_folder()


@pytest.mark.parametrize("trap", ["link", "open"])
def test_a_folder_of_somebody_elses_in_the_temporary_folder_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    found = tmp_path / "tmp" / f"pytest-avo-cache-{os.getuid()}"
    if trap == "link":
        found.symlink_to(tmp_path / "home")
    else:
        found.mkdir()
        found.chmod(0o777)
    with pytest.raises(InvalidInput, match=r"no folder for locks: neither .* set XDG_CACHE_HOME"):
        cache_folder()


def test_programs_are_run_from_the_temporary_folder_unless_it_forbids_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    assert scratch_folder() == temporary
    monkeypatch.setattr(places, "is_noexec", lambda place: place == temporary)
    assert scratch_folder() != temporary
    monkeypatch.setattr(places, "is_noexec", lambda place: True)
    assert scratch_folder() == temporary


def test_a_machine_without_any_temporary_folder_says_so() -> None:
    code = """
import tempfile
def nowhere(): raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile.gettempdir = nowhere
from pytest_avo.core.disk.places import scratch_folder
try: scratch_folder()
except Exception as error: print(type(error).__name__, error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (
        said
        == "InvalidInput No usable temporary directory found in ['/tmp']; set TMPDIR to a folder that can be written\n"
    )
