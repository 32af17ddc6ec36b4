"""Where results come from, as pytest-benchmark's `machine_info` and `commit_info` say it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pytest_avo.core.repository import GitError, git

GIT_TIMEOUT_S = 10.0


def machine_info() -> dict[str, object]:
    """The machine and the interpreter that this process runs on."""
    return {
        "node": platform.node(),
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_compiler": platform.python_compiler(),
        "python_implementation": platform.python_implementation(),
        "python_implementation_version": platform.python_version(),
        "python_version": platform.python_version(),
        "python_build": list(platform.python_build()),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": {"arch": platform.machine(), "count": os.cpu_count()},
    }


def commit_info(folder: Path) -> dict[str, object]:
    """The git commit that `folder` is at; its id is "unversioned" where there is no repository, commit or git."""
    project = _project(folder)
    head = _git(folder, "log", "-1", "--format=%H%n%cI%n%aI")
    if not head:
        return _commit(project, commit="unversioned", branch="(unknown)")
    commit, time, author_time = head.splitlines()
    dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    branch = _git(folder, "branch", "--show-current") or "(detached head)"
    return _commit(project, commit=commit, branch=branch, time=time, author_time=author_time, dirty=dirty)


def _commit(
    project: str,
    *,
    commit: str,
    branch: str,
    time: str | None = None,
    author_time: str | None = None,
    dirty: bool = False,
) -> dict[str, object]:
    return {
        "id": commit,
        "time": time,
        "author_time": author_time,
        "dirty": dirty,
        "project": project,
        "branch": branch,
    }


def _project(folder: Path) -> str:
    """Last part of the remote's address (the rest may hold a token), else the name of the repository's folder."""
    remote = _git(folder, "config", "--get", "remote.origin.url").rstrip("/").removesuffix(".git")
    place = remote or _git(folder, "rev-parse", "--show-toplevel") or str(folder.resolve())
    return place.replace(":", "/").rsplit("/", 1)[-1]


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command, empty when it fails or there is no git."""
    try:
        return git(folder, *arguments, timeout_s=GIT_TIMEOUT_S).decode(errors="replace").strip()
    except GitError:
        return ""
