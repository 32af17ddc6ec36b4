"""How a winner lands: whole or not at all, with its origin, over nobody's edit."""

from __future__ import annotations

import codecs
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.source import PROVENANCE, source_digest, without_provenance
from pytest_avo.core.stats import Interval
from pytest_avo.evolution.promotion import Provenance, check_commit, check_unchanged, commit, promote
from tests import ROOT

SEED = '"""The seed."""\nBLOCK = 1\n'
WINNER = '"""The winner."""\nBLOCK = 2\n'


def provenance(source: str = WINNER, *, hypothesis: str = "larger blocks fit the cache") -> Provenance:
    return Provenance(
        digest=source_digest(source),
        parent=source_digest(SEED),
        run=3,
        generation=7,
        operator="tuner",
        hypothesis=hypothesis,
        over_parent=Interval(1.052, 1.031, 1.074),
        over_seed=1.31,
        device="Some CPU",
        torch="2.13.0",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kernels" / "mine.py"
    path.parent.mkdir()
    path.write_text(SEED)
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "promotion.lock"


def test_a_winner_that_cannot_be_written_is_no_mistake_of_the_user(
    path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"mine.py: cannot be written: No space left on device"):
        promote(path, WINNER, provenance(), lock=lock)
    assert path.read_text() == SEED


def test_the_file_holds_the_winner_and_where_it_came_from(path: Path, lock: Path) -> None:
    promote(path, WINNER, provenance(), lock=lock)
    text = path.read_text()
    assert without_provenance(text) == WINNER
    assert source_digest(text) == source_digest(WINNER)
    head = [line for line in text.splitlines() if line.startswith(PROVENANCE)]
    assert len(head) == 3
    for words in (
        f"digest={source_digest(WINNER)} parent={source_digest(SEED)} run=3 generation=7 operator=tuner",
        "measured=1.052x [1.031, 1.074] over its parent, 1.310x over the seed",
        "on Some CPU, torch 2.13.0, 2",
    ):
        assert any(words in line for line in head)


def test_a_second_promotion_replaces_the_first_ones_comment(path: Path, lock: Path) -> None:
    promote(path, WINNER, provenance(), lock=lock)
    promote(path, path.read_text().replace("BLOCK = 2", "BLOCK = 4"), provenance(), lock=lock)
    assert path.read_text().count(f"{PROVENANCE}digest=") == 1
    assert "BLOCK = 4" in path.read_text()


def test_the_mode_of_the_file_stays(path: Path, lock: Path) -> None:
    path.chmod(0o640)
    promote(path, WINNER, provenance(), lock=lock)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_kernel_behind_a_link_is_promoted_into_the_file_that_it_points_to(path: Path, lock: Path) -> None:
    link = path.parent.parent / "linked" / "mine.py"
    link.parent.mkdir()
    link.symlink_to("../kernels/mine.py")
    promote(link, WINNER, provenance(), lock=lock)
    assert link.is_symlink()
    assert without_provenance(path.read_text()) == WINNER
    assert [x.name for x in link.parent.iterdir()] == ["mine.py"]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_line_ends_and_byte_order_mark_stay(path: Path, lock: Path, mark: bytes, newline: bytes) -> None:
    path.write_bytes(mark + SEED.encode().replace(b"\n", newline))
    promote(path, WINNER, provenance(), lock=lock)
    data = path.read_bytes()
    assert data.startswith(mark + PROVENANCE.encode())
    assert data.count(newline) == data.count(b"\n")
    assert data.endswith(WINNER.encode().replace(b"\n", newline))
    check_unchanged(path, {source_digest(WINNER)})


def test_an_encoding_stays_declared_where_python_looks_for_it(path: Path, lock: Path) -> None:
    head = "# -*- coding: latin-1 -*-\n"
    path.write_bytes(f"{head}# na\xefve\n{SEED}".encode("latin-1"))
    promote(path, f"{head}# na\xefve\n{WINNER}", provenance(), lock=lock)
    assert path.read_bytes().startswith(f"{head}{PROVENANCE}".encode())
    compile(path.read_bytes(), "mine.py", "exec")
    check_unchanged(path, {source_digest(f"{head}# na\xefve\n{WINNER}")})


def test_nothing_else_is_left_in_the_folder(path: Path, lock: Path) -> None:
    promote(path, WINNER, provenance(), lock=lock)
    assert [x.name for x in path.parent.iterdir()] == ["mine.py"]


def test_a_promotion_that_fails_leaves_the_old_text(path: Path, lock: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        promote(path, WINNER + "# \ud800\n", provenance(), lock=lock)
    assert path.read_text() == SEED
    assert [x.name for x in path.parent.iterdir()] == ["mine.py"]
    with pytest.raises(FileNotFoundError):
        promote(path.parent / "absent.py", WINNER, provenance(), lock=lock)
    assert [x.name for x in path.parent.iterdir()] == ["mine.py"]


def test_a_reader_never_sees_half_a_file(path: Path, lock: Path) -> None:
    sources = [f"VERSION = {n}\n" + f"# line of version {n}\n" * (20 + 2000 * (n % 2)) for n in range(200)]
    whole = {source_digest(source) for source in [SEED, *sources]}
    done, torn = threading.Event(), []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            if source_digest(path.read_text()) not in whole:
                torn.append(path.read_text())
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    for source in itertools.cycle(sources):
        promote(path, source, provenance(source), lock=lock)
        if reads > 100 and source is sources[-1]:
            break
    done.set()
    reader.join(180)
    assert torn == []


def test_a_killed_writer_leaves_a_whole_file(path: Path, lock: Path) -> None:
    script = f"""
from pathlib import Path
from pytest_avo.evolution.promotion import promote
from tests.evolution.test_promotion import provenance
print("ready", flush=True)
while True:
    for source in ("A = 1\\n" * 20000, "B = 1\\n" * 20000):
        promote(Path({str(path)!r}), source, provenance(source), lock=Path({str(lock)!r}))
"""
    whole = {source_digest(x) for x in (SEED, "A = 1\n" * 20000, "B = 1\n" * 20000)}
    for delay_s in (0.02, 0.05, 0.1, 0.15):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        assert source_digest(path.read_text()) in whole
    # The lock of a killed writer is free again, and what it left behind goes with the next promotion.
    (path.parent / ".mine.py.4194305.killed.new").write_text("half of")  # no process has such a number
    promote(path, WINNER, provenance(), lock=lock)
    assert source_digest(path.read_text()) == source_digest(WINNER)
    assert [x.name for x in path.parent.iterdir()] == ["mine.py"]


def test_an_untouched_file_may_be_replaced(path: Path, lock: Path) -> None:
    check_unchanged(path, {source_digest(SEED)})
    promote(path, WINNER, provenance(), lock=lock)
    check_unchanged(path, {source_digest(SEED), source_digest(WINNER)})


def test_an_edited_file_is_not_overwritten(path: Path) -> None:
    path.write_text(SEED + "# my own idea\n")
    with pytest.raises(InvalidInput, match="was edited since this run began") as error:
        check_unchanged(path, {source_digest(SEED)})
    assert str(error.value).startswith(f"{path}: ")
    assert source_digest(SEED) in str(error.value)


def test_a_file_that_is_gone_is_the_users_matter(path: Path) -> None:
    path.unlink()
    with pytest.raises(InvalidInput, match="cannot be read as a kernel"):
        check_unchanged(path, {source_digest(SEED)})


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=600
    ).stdout.strip()


@pytest.fixture
def repository(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with the kernel in it, apart from the user's own settings."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = path.parent.parent
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "A Tester")
    git(folder, "config", "user.email", "tester@example.org")
    (folder / "other.py").write_text("1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Begin")
    return folder


def test_a_commit_has_the_file_alone_and_the_scores_as_trailers(repository: Path, path: Path, lock: Path) -> None:
    (repository / "other.py").write_text("2\n")
    git(repository, "add", "other.py")
    promote(path, WINNER, provenance(), lock=lock)
    made = commit(path, provenance())
    assert git(repository, "rev-parse", "HEAD").startswith(made)
    assert git(repository, "show", "--format=", "--name-only", "HEAD") == "kernels/mine.py"
    assert git(repository, "log", "-1", "--format=%s") == "Promote mine.py, generation 7: 1.052x"
    assert "larger blocks fit the cache" in git(repository, "log", "-1", "--format=%b")
    trailers = git(repository, "log", "-1", "--format=%(trailers:only)").splitlines()
    assert trailers == [
        f"Avo-Digest: {source_digest(WINNER)}",
        f"Avo-Parent: {source_digest(SEED)}",
        "Avo-Operator: tuner",
        "Avo-Ratio: 1.0520",
        "Avo-Ratio-99: 1.0310 1.0740",
        "Avo-Over-Seed: 1.3100",
        "Avo-Device: Some CPU",
    ]
    assert git(repository, "diff", "--cached", "--name-only") == "other.py"


@pytest.mark.parametrize(
    "hypothesis", ["", "--amend", "# a heading\n\nAvo-Ratio: 9.9\n\nmore", "-F /etc/passwd\n'\"$(x)"]
)
def test_any_hypothesis_is_text(repository: Path, path: Path, lock: Path, hypothesis: str) -> None:
    promote(path, WINNER, provenance(), lock=lock)
    commit(path, provenance(hypothesis=hypothesis))
    assert git(repository, "rev-list", "--count", "HEAD") == "2"
    ratios = git(repository, "log", "-1", "--format=%(trailers:key=Avo-Ratio,valueonly)").split()
    assert ratios == ["1.0520"]


def test_a_file_that_is_committed_already_is_committed(repository: Path, path: Path) -> None:
    assert git(repository, "rev-parse", "HEAD").startswith(commit(path, provenance()))
    assert git(repository, "rev-list", "--count", "HEAD") == "1"


def test_a_file_behind_a_link_is_what_is_committed(repository: Path, path: Path, lock: Path) -> None:
    link = repository / "link.py"
    link.symlink_to("kernels/mine.py")
    check_commit(link)
    promote(link, WINNER, provenance(), lock=lock)
    commit(link, provenance())
    assert git(repository, "show", "--format=", "--name-only", "HEAD") == "kernels/mine.py"


def test_a_commit_goes_where_the_file_is_also_in_another_repositorys_hook(
    repository: Path, path: Path, lock: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    check_commit(path)
    promote(path, WINNER, provenance(), lock=lock)
    commit(path, provenance())
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert git(repository, "rev-list", "--count", "HEAD") == "2"


def test_a_hook_that_refuses_is_said(repository: Path, path: Path, lock: Path) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'no commits on Fridays' >&2\nexit 1\n")
    hook.chmod(0o755)
    promote(path, WINNER, provenance(), lock=lock)
    with pytest.raises(InvalidInput, match=r"--avo-commit: .*mine.py: git refuses it: no commits on Fridays"):
        commit(path, provenance())


@pytest.mark.parametrize("refuses", [False, True])
def test_what_a_hook_makes_of_the_file_is_undone(repository: Path, path: Path, lock: Path, refuses: bool) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho '# formatted' >> '{path}'\ngit add '{path}'\nexit {int(refuses)}\n")
    hook.chmod(0o755)
    promote(path, WINNER, provenance(), lock=lock)
    before = path.read_bytes()
    try:
        said = commit(path, provenance())
    except InvalidInput as error:
        assert refuses
        said = str(error)
    assert said.endswith("; a hook of git's changed the file, which was put back as it was measured")
    assert path.read_bytes() == before


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_whose_changes_git_leaves_alone_is_the_users_matter(repository: Path, path: Path, bit: str) -> None:
    git(repository, "update-index", bit, str(path))
    with pytest.raises(InvalidInput, match=r"mine\.py: git was told to leave its changes alone"):
        check_commit(path)


def test_what_git_will_refuse_is_said_beforehand(repository: Path, path: Path) -> None:
    check_commit(path)
    new = path.with_name("new.py")
    new.write_text(SEED)
    with pytest.raises(InvalidInput, match=r"new.py: expected a file that git tracks"):
        check_commit(new)
    (repository / ".git" / "MERGE_HEAD").write_text("0" * 40)
    with pytest.raises(InvalidInput, match="MERGE_HEAD"):
        check_commit(path)


def test_a_committer_without_a_name_is_the_users_matter(
    repository: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "config", "user.useConfigOnly", "true")
    git(repository, "config", "--unset", "user.email")
    with pytest.raises(InvalidInput, match=r"git refuses it: .*email"):
        check_commit(path)


def test_a_folder_outside_git_is_the_users_matter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(path.parent.parent))
    with pytest.raises(InvalidInput, match=r"--avo-commit: .*: git refuses it: .*not a git repository"):
        check_commit(path)


def test_a_machine_without_git_is_the_users_matter(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"--avo-commit: .*expected git on the PATH"):
        check_commit(path)
