"""A confirmed winner lands in kernels/, with a comment that says where it came from; later runs go on from there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.disk.repository import GitError, git, text
from pytest_avo.core.disk.text_form import TextForm
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import read_kernel
from pytest_avo.core.source import PROVENANCE, with_provenance
from pytest_avo.core.stats import Interval
from pytest_avo.lineage import view as lineage_view
from pytest_avo.lineage.view import View

COMMIT_LIMIT_S = 600.0
"""The user's hooks run in it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a promoted kernel comes from. Ratios are old time / new time, above 1 faster."""

    digest: str
    parent: str
    run: int
    generation: int
    operator: str
    hypothesis: str
    over_parent: Interval
    over_seed: float
    device: str
    torch: str

    def lines(self) -> list[str]:
        """Comment lines for the head of the file."""
        ratio = f"{self.over_parent.estimate:.3f}x [{self.over_parent.low:.3f}, {self.over_parent.high:.3f}]"
        day = datetime.now(UTC).date().isoformat()
        origin = f"digest={self.digest} parent={self.parent} run={self.run} generation={self.generation}"
        return [
            f"{PROVENANCE}{origin} operator={self.operator}",
            f"{PROVENANCE}measured={ratio} over its parent, {self.over_seed:.3f}x over the seed, confirmed",
            f"{PROVENANCE}on {self.device}, torch {self.torch}, {day}",
        ]


def promote(path: Path, source: str, provenance: Provenance, *, lock: Path) -> None:
    """Replace the kernel file: whoever reads it sees the old text or the new one, also after a power cut.

    Where `path` is a link, it is the file behind it. Encoding, byte order mark and line ends stay what they were.
    OSError where it cannot be written, which a run that checked the place meets on a full disk, say.
    """
    content = with_provenance(source, provenance.lines())
    target = Path(os.path.realpath(path))
    with FileLock(lock):
        try:
            write_atomically(target, TextForm.of(target.read_bytes()).encoded(content))
        except InvalidInput as error:
            raise OSError(str(error)) from None


def check_place(path: Path) -> None:
    """InvalidInput unless the file can be replaced: its folder is written to."""
    folder = Path(os.path.realpath(path)).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput(f"{path}: winners are written to its place, and {folder} cannot be written")


def check_unchanged(path: Path, expected: set[str]) -> None:
    """InvalidInput unless the file holds one of the sources with these digests: nobody's edit is overwritten."""
    found = read_kernel(path).digest
    if found not in expected:
        raise InvalidInput(
            f"{path}: was edited since this run began (digest {found}, expected {' or '.join(sorted(expected))}); "
            "`avo restore --force incumbent` brings the run's text back for --avo-resume, a new run takes it as it is"
        )


def check_commit(path: Path) -> None:
    """InvalidInput unless a promotion of this file can be committed, as far as that can be told beforehand."""
    target = Path(os.path.realpath(path))
    with _usage(path):
        tracked = text(target.parent, "ls-files", "-v", "--", target.name)
        if not tracked:
            raise InvalidInput(f"--avo-commit: {path}: expected a file that git tracks, it does not (git add it first)")
        if tracked[0].islower() or tracked[0] == "S":
            told = "git update-index --no-assume-unchanged --no-skip-worktree"
            raise InvalidInput(f"--avo-commit: {path}: git was told to leave its changes alone ({told} undoes that)")
        text(target.parent, "var", "GIT_COMMITTER_IDENT")
        text(target.parent, "var", "GIT_AUTHOR_IDENT")
        folder = Path(text(target.parent, "rev-parse", "--absolute-git-dir"))
    if under_way := [name for name in ("MERGE_HEAD", "CHERRY_PICK_HEAD") if (folder / name).exists()]:
        raise InvalidInput(
            f"--avo-commit: {path}: git cannot commit one file alone while {under_way[0]} stands: end what is under way"
        )


def commit(path: Path, provenance: Provenance) -> str:
    """Commit the promoted file alone, scores in the trailers; returns the id of the commit that has it.

    InvalidInput if git refuses. A file that the last commit has as it is, is committed. What the user's hooks make of
    the file, as those do that format it, is undone: on disk stays what was measured, which the run goes on from.
    """
    title = f"Promote {path.name}, generation {provenance.generation}: {provenance.over_parent.estimate:.3f}x"
    trailers = {
        "Avo-Digest": provenance.digest,
        "Avo-Parent": provenance.parent,
        "Avo-Operator": provenance.operator,
        "Avo-Ratio": f"{provenance.over_parent.estimate:.4f}",
        "Avo-Ratio-99": f"{provenance.over_parent.low:.4f} {provenance.over_parent.high:.4f}",
        "Avo-Over-Seed": f"{provenance.over_seed:.4f}",
        "Avo-Device": provenance.device,
    }
    message = "\n".join([title, "", provenance.hypothesis, "", *(f"{key}: {value}" for key, value in trailers.items())])
    target = Path(os.path.realpath(path))
    promoted = target.read_bytes()
    with _usage(path):
        try:
            if text(target.parent, "status", "--porcelain", "--", target.name):
                arguments = ["commit", "--quiet", "--only", "--message", message, "--", target.name]
                git(target.parent, *arguments, timeout_s=COMMIT_LIMIT_S)
            found = text(target.parent, "rev-parse", "--short", "HEAD")
        except GitError as error:
            raise GitError(f"{error}{_put_back(target, promoted)}") from None
        return f"{found}{_put_back(target, promoted)}"


def _put_back(target: Path, promoted: bytes) -> str:
    """Write a file as it was if it is not; what is to be said of that."""
    with contextlib.suppress(OSError):
        if target.read_bytes() == promoted:
            return ""
    write_atomically(target, promoted)
    return "; a hook of git's changed the file, which was put back as it was measured"


@contextlib.contextmanager
def _usage(path: Path) -> Iterator[None]:
    try:
        yield
    except GitError as error:
        raise InvalidInput(f"--avo-commit: {path}: git refuses it: {error}") from None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a transferred kernel comes from."""

    run: int
    generation: int
    hypothesis: str

    @property
    def label(self) -> str:
        """As lineage and terminal have it."""
        return f"generation {self.generation} of run {self.run}"


def transferred(lineage: Path, *, kernel: str, path: Path) -> Origin:
    """The best kernel of the last run of `kernel` (as the lineage has its path), which the file at `path` must hold."""
    run = lineage_view.latest_run(lineage, kernel) if lineage.is_file() else None
    if run is None:
        raise InvalidInput(f"--avo-transfer: expected an evolution of {kernel} to go on from, {lineage} has none")
    with View(lineage, run.id) as view:
        best = view.incumbent()
        assert best is not None, "a run begins with its seed"
    if (found := read_kernel(path).digest) != best.digest:
        raise InvalidInput(
            f"--avo-transfer: {path}: expected the best kernel of run {run.id} (digest {best.digest}), got another "
            f"text (digest {found}); `avo restore incumbent` brings it back, and --avo-shapes evolves the file as it is"
        )
    return Origin(run.id, best.generation, best.hypothesis)
