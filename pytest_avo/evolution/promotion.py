"""A confirmed winner lands in kernels/: atomically, with a comment that says where it came from."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import PROVENANCE, source_digest, without_provenance
from pytest_avo.core.stats import Interval


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
    """Replace the kernel file: whoever reads it sees the old text or the new one, also after a power cut."""
    text = "".join(f"{line}\n" for line in provenance.lines()) + without_provenance(source)
    with FileLock(lock):
        for left_by_a_killed_run in path.parent.glob(f".{path.name}.*.new"):
            left_by_a_killed_run.unlink()
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, path.stat().st_mode)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_unchanged(path: Path, expected: set[str]) -> None:
    """InvalidInput unless the file holds one of the sources with these digests: nobody's edit is overwritten."""
    try:
        found = source_digest(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as the kernel of this run: {error}") from None
    if found not in expected:
        raise InvalidInput(
            f"{path}: was edited since this run began (digest {found}, expected {' or '.join(sorted(expected))}); "
            "start a new run without --avo-resume to evolve the file as it is now"
        )


def commit(path: Path, provenance: Provenance) -> str:
    """Commit the promoted file alone, scores in the trailers; returns the commit's id. InvalidInput if git refuses."""
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
    _git(path, "commit", "--quiet", "--only", "--message", message, "--", str(path))
    return _git(path, "rev-parse", "--short", "HEAD")


def _git(path: Path, *arguments: str) -> str:
    try:
        found = subprocess.run(["git", *arguments], cwd=path.parent, capture_output=True, text=True)
    except FileNotFoundError:
        raise InvalidInput("--avo-commit: expected git on the PATH, there is none") from None
    if found.returncode:
        reason = (found.stderr or found.stdout).strip().splitlines()
        raise InvalidInput(f"--avo-commit: git {arguments[0]} refused: {reason[-1] if reason else 'no message'}")
    return found.stdout.strip()
