"""Kernels as they are at a git ref: their source there is what a comparison runs beside the new one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, Evaluation, Subject
from pytest_avo.core.kernel import Kernel, source_digest
from pytest_avo.core.verdict import paired
from pytest_avo.gate.gains import Case, Gains

PREFIX = "git:"


@dataclass(frozen=True, slots=True)
class GitBaseline:
    """The kernels of a commit, as a baseline that is measured anew beside what is compared with it."""

    ref: str
    commit: str
    """All hex digits of the commit that the ref named when the run began."""

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.ref}"

    def describe(self) -> str:
        """The baseline as the header says it."""
        return f"{self.name} ({self.commit[:8]})"

    def subject(self, kernel: Kernel) -> Subject | None:
        """The arm to time beside the kernel; None where the commit has no such file."""
        source = source_at(self.commit, kernel.path)
        return None if source is None else Subject(f"{kernel.path.name} ({self.name})", source)

    def is_same(self, kernel: Kernel) -> bool:
        """Whether the kernel's file is unchanged since the commit, comments of a promotion left aside."""
        source = source_at(self.commit, kernel.path)
        return source is not None and source_digest(source) == kernel.digest

    def gains(self, case: Case, evaluation: Evaluation) -> Gains | str:
        """What the kernel gained over its source at the commit, or why that cannot be said."""
        timing = evaluation.timing
        if timing is not None and BASELINE in timing.seconds:
            return Gains.of_one(case.shape, paired(timing, BASELINE))
        failed = next((note for note in evaluation.notes if note.startswith(f"{BASELINE}: ")), None)
        if failed is None:
            return f"{self.name} has no {case.name}"
        return f"{self.name} fails here: {failed.removeprefix(f'{BASELINE}: ')}"

    def median_us(self, case: Case, evaluation: Evaluation) -> float:
        """The old kernel's time in microseconds per call, measured beside the new one's."""
        assert evaluation.timing is not None, "there are gains, so it was timed"
        return median(x for launch in evaluation.timing.seconds[BASELINE] for x in launch) * 1e6


def at_ref(ref: str, rootdir: Path) -> GitBaseline:
    """The kernels at a ref of the repository around `rootdir`; InvalidInput where git does not know it."""
    where = f"--avo-compare {PREFIX}{ref}"
    try:
        commit = _git(rootdir, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except FileNotFoundError:
        raise InvalidInput(f"{where}: expected git on the PATH, there is none") from None
    except _GitError as error:
        expected = "expected a commit, branch or tag of this repository (a shallow clone has to fetch it first)"
        raise InvalidInput(f"{where}: {expected}{f': {error}' if str(error) else ''}") from None
    return GitBaseline(ref, commit.decode().strip())


@cache
def source_at(commit: str, path: Path) -> str | None:
    """Text of a file at a commit; None where the commit has none, or none that is text."""
    try:
        return _git(path.parent, "show", f"{commit}:./{path.name}").decode("utf-8")
    except (_GitError, UnicodeDecodeError):
        return None


class _GitError(Exception):
    """Git ended with another status than 0; the text is what it said last."""


def _git(folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitError(lines[-1] if lines else "")
    return done.stdout
