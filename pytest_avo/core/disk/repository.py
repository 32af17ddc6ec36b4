"""Git commands about the repository that a folder lies in, whatever repository the environment speaks of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TIMEOUT_S = 60.0
ANSWER_LIMIT_S = 10.0
"""Of git commands whose answer a run can do without."""
OF_A_REPOSITORY = frozenset(
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "CONFIG", "DIR", "GRAFT_FILE", "IMPLICIT_WORK_TREE", "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX", "SHALLOW_FILE", "WORK_TREE",
    )
)  # fmt: skip
"""What git exports to hooks and aliases: they name the repository that the hook runs for, which need not be a folder's
own. GIT_CONFIG_COUNT and its like stay: with them a container calls a folder of another user safe."""
_OWN = {
    "GIT_OPTIONAL_LOCKS": "0",  # `git status` leaves the index alone, which another git may be using
    "GIT_TERMINAL_PROMPT": "0",  # nobody is there to type a password for a partial clone's missing objects
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",  # its messages are told apart
}


class GitError(Exception):
    """A git command that failed; the text is the line that says why."""


class NoGit(GitError):
    """There is no git on the PATH."""


class NoRepository(GitError):
    """The folder lies in no repository."""


def git(folder: Path, *arguments: str, index: Path | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
    """Standard output of `git ARGUMENTS` in a folder; a GitError where it fails.

    index: file to use in place of the repository's index.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_REPOSITORY} | _OWN
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    command = ["git", "-c", "log.showSignature=false", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, env=environment
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise NoRepository(f"{folder}: there is no such folder") from error
        raise NoGit("expected git on the PATH, there is none") from None
    except OSError as error:
        raise GitError(f"git cannot be run in {folder}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} took longer than {timeout_s:g} s") from None
    if done.returncode:
        reason = why(done.stderr.decode(errors="replace"))
        kind = NoRepository if "not a git repository" in reason else GitError
        raise kind(reason or f"git {arguments[0]} ended with status {done.returncode}")
    return done.stdout


def text(folder: Path, *arguments: str) -> str:
    """Standard output as text without the white space around it; a path in it is as the file system has it."""
    return os.fsdecode(git(folder, *arguments)).strip()


def top(folder: Path) -> Path:
    """The root of the working tree around a folder."""
    return Path(os.fsdecode(git(folder, "rev-parse", "--show-toplevel")).removesuffix("\n"))


def why(said: str) -> str:
    """The line of git's standard error that says what is wrong, and the command that it advises, if any."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    worst = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    advice = next((line for line in lines if line.startswith("git config --global --add safe.directory")), "")
    return f"{worst}; to allow it: {advice}" if advice else worst


def commit_info(folder: Path) -> dict[str, object]:
    """The git commit that `folder` is at; its id is "unversioned" where there is no repository, commit or git."""
    project = _project(folder)
    head = _ask(folder, "log", "-1", "--format=%H%n%cI%n%aI")
    if not head:
        return _commit(project, commit="unversioned", branch="(unknown)")
    commit, time, author_time = head.splitlines()
    dirty = bool(_ask(folder, "status", "--porcelain", "--untracked-files=no"))
    branch = _ask(folder, "branch", "--show-current") or "(detached head)"
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
    remote = _ask(folder, "config", "--get", "remote.origin.url").rstrip("/").removesuffix(".git")
    place = remote or _ask(folder, "rev-parse", "--show-toplevel") or str(folder.resolve())
    return place.replace(":", "/").rsplit("/", 1)[-1]


def _ask(folder: Path, *arguments: str) -> str:
    """Output of a git command, empty when it fails or there is no git."""
    try:
        return git(folder, *arguments, timeout_s=ANSWER_LIMIT_S).decode(errors="replace").strip()
    except GitError:
        return ""
