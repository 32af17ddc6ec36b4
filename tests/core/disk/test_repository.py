from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pytest_avo.core.disk.repository import commit_info


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "kernel.py").write_text("AVO = {}\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_commit_is_named_in_full(repository: Path) -> None:
    info = commit_info(repository)
    assert info["id"] == git(repository, "rev-parse", "HEAD")
    assert info["time"] == git(repository, "log", "-1", "--format=%cI")
    assert info["author_time"] == git(repository, "log", "-1", "--format=%aI")
    assert (info["dirty"], info["project"], info["branch"]) == (False, "project", "trunk")


def test_only_a_change_of_a_tracked_file_is_dirt(repository: Path) -> None:
    (repository / "new.json").write_text("{}", encoding="utf-8")
    assert commit_info(repository)["dirty"] is False
    (repository / "kernel.py").write_text("AVO = None\n", encoding="utf-8")
    assert commit_info(repository)["dirty"] is True


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    assert commit_info(repository)["branch"] == "(detached head)"


@pytest.mark.parametrize(
    "remote",
    [
        "https://user:secret-token@example.org/team/attention.git",
        "git@example.org:attention",
        "/srv/git/attention.git/",
    ],
)
def test_the_project_is_the_last_part_of_the_remote(repository: Path, remote: str) -> None:
    git(repository, "remote", "add", "origin", remote)
    info = commit_info(repository)
    assert info["project"] == "attention"
    assert "secret-token" not in json.dumps(info)


def test_outside_a_repository_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    expected = {"id": "unversioned", "time": None, "author_time": None, "dirty": False, "branch": "(unknown)"}
    assert commit_info(tmp_path) == expected | {"project": tmp_path.name}


def test_a_repository_before_its_first_commit_is_unversioned(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert commit_info(tmp_path)["id"] == "unversioned"


def test_a_machine_without_git_is_no_failure(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository / "nothing-here"))
    assert commit_info(repository)["id"] == "unversioned"


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"])
def test_the_commit_is_that_of_the_folder_whatever_a_hook_left_in_the_environment(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    expected = commit_info(repository)
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert commit_info(repository) == expected
