"""Kernels as they are at a git ref: their source there is what a comparison runs beside the new one."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from pytest_avo.core.disk import repository
from pytest_avo.core.disk.repository import GitError, NoRepository, git
from pytest_avo.core.disk.text_form import decoded
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, Evaluation, Subject
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.likeness import normalised
from pytest_avo.core.ranking import paired, paired_by_kind
from pytest_avo.gate.gains import Comparand, Gains

PREFIX = "git:"
MOST_LINKS = 8
"""Links that are followed from one to the next before they are taken for a circle."""
_LINK, _SUBMODULE = "120000", "160000"
"""Modes of what is no file in a commit."""


@dataclass(frozen=True, slots=True)
class GitBaseline:
    """The kernels of a commit, as a baseline that is measured anew beside what is compared with it."""

    ref: str
    commit: str
    """All hex digits of the commit that the ref named when the run began."""
    top: Path
    """Root of the repository that has the commit."""

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.ref}"

    def describe(self) -> str:
        """The baseline as the header says it."""
        return f"{self.name} ({self.commit[:8]})"

    def source(self, kernel: Kernel) -> str | None:
        """The kernel's text at the commit, under the name that it had there; None where the commit has no such file.

        InvalidInput where git cannot say.
        """
        try:
            data = file_at(self, kernel.path)
        except GitError as error:
            raise InvalidInput(f"{kernel.path}: --avo-compare {self.name}: {error}") from None
        return None if data is None else _text(data)

    def subject(self, kernel: Kernel) -> Subject | None:
        """The arm to time beside the kernel; None where the commit has no such file, or none that is Python."""
        source = self.source(kernel)
        if source is None or parse_fault(source):
            return None
        return Subject(f"{kernel.label} ({self.name})", source)

    def is_same(self, kernel: Kernel) -> bool:
        """Whether the kernel is the same program as at the commit: comments, docstrings and layout do not run."""
        source = self.source(kernel)
        return source is not None and not kernel.fault and normalised(source) == normalised(kernel.source)

    def gains(self, case: Comparand, evaluation: Evaluation) -> Gains | str:
        """What the kernel gained over its source at the commit, or why that cannot be said."""
        timing = evaluation.timing
        if timing is not None and BASELINE in timing.seconds:
            return Gains.of_one(case.shape, paired(timing, BASELINE), by_kind=paired_by_kind(timing, BASELINE))
        failed = next((note for note in evaluation.notes if note.startswith(f"{BASELINE}: ")), None)
        if failed is not None:
            return f"{self.name} fails here: {failed.removeprefix(f'{BASELINE}: ')}"
        source = self.source(case.kernel)
        if source is not None and (fault := parse_fault(source)):
            return f"{self.name} fails here: {fault}"
        return f"{self.name} has no {case.name}"

    def unlike(self, case: Comparand, evaluation: Evaluation) -> str:
        """Nothing: both are measured now."""
        return ""

    def median_us(self, case: Comparand, evaluation: Evaluation) -> float:
        """The old kernel's time in microseconds per call, measured beside the new one's."""
        assert evaluation.timing is not None, "there are gains, so it was timed"
        return median(x for launch in evaluation.timing.seconds[BASELINE] for x in launch) * 1e6


def at_ref(ref: str, rootdir: Path) -> GitBaseline:
    """The kernels at a ref of the repository around `rootdir`; InvalidInput where git does not know it."""
    where = f"--avo-compare {PREFIX}{ref}"
    try:
        top = repository.top(rootdir)
        commit = commit_of(ref, top)
    except UnknownRef as error:
        advice = fetch_of(ref, rootdir)
        raise InvalidInput(f"{where}: {error}{f'; {advice}' if advice else ''}") from None
    except GitError as error:
        raise InvalidInput(f"{where}: {error}") from None
    return GitBaseline(ref, commit, top)


class UnknownRef(GitError):
    """A name that is no commit's in a repository."""


def commit_of(ref: str, top: Path) -> str:
    """All hex digits of the commit that a ref names; UnknownRef where it names none."""
    try:
        found = git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    except GitError as error:
        if not str(error).startswith("git rev-parse ended"):
            raise
        found = ""
    if not found:
        raise UnknownRef(f"expected a commit, branch or tag of the repository {top}")
    return found


def fetch_of(ref: str, folder: Path) -> str:
    """The fetch that brings a ref which this clone lacks; "" where none is known to."""
    remotes = repository.text(folder, "remote").split()
    shallow = repository.text(folder, "rev-parse", "--is-shallow-repository") == "true"
    base = re.split(r"[~^@:]", ref)[0]
    of_remote = max((each for each in remotes if base.startswith(f"{each}/")), key=len, default="")
    remote = of_remote or ("origin" if "origin" in remotes else next(iter(remotes), ""))
    if not remote or not base or not (of_remote or shallow):
        return ""
    depth = "" if not shallow else "--depth=1 " if base == ref else "--unshallow "
    if of_remote:
        branch = base.removeprefix(f"{remote}/")
        wanted = f" +refs/heads/{branch}:refs/remotes/{remote}/{branch}"
    elif base in ("HEAD", "FETCH_HEAD", "ORIG_HEAD") or re.fullmatch(r"[0-9a-f]{4,39}", base):
        depth, wanted = "--unshallow ", ""
    else:
        wanted = f" {base}" if re.fullmatch(r"[0-9a-f]{40}", base) else f" {base}:{base}"
    return f"{'this clone is shallow' if shallow else 'where it was not fetched'}: git fetch {depth}{remote}{wanted}"


@cache
def file_at(baseline: GitBaseline, path: Path) -> bytes | None:
    """Content of a file at a baseline's commit as a checkout would have it; None where the commit has no such file.

    A link is followed, a file of another name that git takes for the same is found, and so is one of a submodule. In
    a repository of its own the ref means that repository's. GitError where git cannot say.
    """
    for place in dict.fromkeys([path.absolute(), Path(os.path.realpath(path))]):
        folder = Path(os.path.realpath(place.parent))
        try:
            top = Path(os.path.realpath(repository.top(folder)))
        except NoRepository:
            continue
        commit = baseline.commit if top == Path(os.path.realpath(baseline.top)) else _elsewhere(baseline, top)
        if commit is None:
            continue
        name = (folder / place.name).relative_to(top).as_posix()
        if (data := _content(top, commit, name)) is not None:
            return data
        if not place.is_symlink() and (old := _old_name(top, commit, name)) is not None:
            return _content(top, commit, old)
    return None


def parse_fault(source: str) -> str:
    """Why a text is no Python, or ""."""
    try:
        return parse_kernel(source, path=Path("kernel.py")).fault
    except InvalidInput:
        return ""  # what it claims does not matter


def _elsewhere(baseline: GitBaseline, top: Path) -> str | None:
    """The commit in another repository that a baseline means: what it records of a submodule, else the ref there."""
    above = repository.text(top, "rev-parse", "--show-superproject-working-tree")
    if not above:
        return commit_of(baseline.ref, top)
    above = os.path.realpath(above)
    outer = baseline.commit if above == os.path.realpath(baseline.top) else _elsewhere(baseline, Path(above))
    found = None if outer is None else _entry(Path(above), outer, top.relative_to(above).as_posix())
    if found is None or found[0] != _SUBMODULE:
        return None
    commit = found[1]
    try:
        return commit_of(commit, top)
    except UnknownRef:
        raise GitError(
            f"its submodule lacks commit {commit[:8]}: git -C {top} fetch --depth=1 origin {commit} brings it"
        ) from None


def _entry(top: Path, commit: str, name: str) -> tuple[str, str] | None:
    """Mode and object of what a commit has under a name; None where it has nothing."""
    found = os.fsdecode(git(top, "ls-tree", "-z", "--full-tree", commit, "--", name))
    for entry in found.split("\0"):
        head, _, named = entry.partition("\t")
        if named == name:
            mode, _, digest = head.split(" ")[:3]
            return mode, digest
    return None


def _content(top: Path, commit: str, name: str) -> bytes | None:
    for _ in range(MOST_LINKS):
        if name.startswith(("/", "../")):
            return None
        name = _through_linked_folders(top, commit, name)
        found = _entry(top, commit, name)
        if found is None or found[0] in (_SUBMODULE, "040000"):
            return None
        if found[0] != _LINK:
            # With filters: line ends, and what Git LFS keeps elsewhere, are as in the working tree.
            return git(top, "cat-file", "--filters", f"--path={name}", found[1])
        name = _pointed_at(name, os.fsdecode(git(top, "cat-file", "blob", found[1])))
    return None


def _through_linked_folders(top: Path, commit: str, name: str) -> str:
    """The name with folders that are links in the commit replaced by what they point to."""
    parts = name.split("/")
    for depth in range(1, len(parts)):
        folder = "/".join(parts[:depth])
        found = _entry(top, commit, folder)
        if found is not None and found[0] == _LINK:
            target = _pointed_at(folder, os.fsdecode(git(top, "cat-file", "blob", found[1])))
            return posixpath.join(target, *parts[depth:])
    return name


def _pointed_at(name: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _old_name(top: Path, commit: str, name: str) -> str | None:
    """What git takes the file to have been called at the commit; also of a file that it was not told of yet."""
    with tempfile.TemporaryDirectory(prefix="pytest-avo-index-") as folder:
        index = Path(folder) / "index"
        with contextlib.suppress(FileNotFoundError):  # of a clone without a checkout, say
            shutil.copy(top / repository.text(top, "rev-parse", "--git-path", "index"), index)
        git(top, "add", "--force", "--intent-to-add", "--", name, index=index)
        arguments = ["diff", "--no-ext-diff", "--ignore-submodules", "--find-renames", "--diff-filter=R"]
        arguments += ["--name-status", "-z", commit]
        found = os.fsdecode(git(top, *arguments, index=index)).split("\0")
    renames = {new: old for old, new in zip(found[1::3], found[2::3], strict=False)}
    return renames.get(name)


def _text(data: bytes) -> str:
    """The text of a file; what Python cannot read is left for it to refuse."""
    try:
        return decoded(data)
    except (SyntaxError, UnicodeDecodeError):
        return data.decode("utf-8", "backslashreplace") + "\n(not in the encoding that it declares)\n"
