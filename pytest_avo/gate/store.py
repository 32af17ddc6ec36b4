"""Stored baselines: what a run measured, kept below `.avo/baselines/` or wherever the user keeps it, to compare with.

Another day's time on a shared machine is a bad measure: with nothing changed it moves by ten percent and more. So where
both runs timed the same peer, the kernel is compared relative to that peer, which the machine's drift hits as well.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_avo import __version__
from pytest_avo.core import stats
from pytest_avo.core.disk.files import prepare, write_atomically
from pytest_avo.core.disk.folder import make_folder
from pytest_avo.core.disk.repository import commit_info
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Subject, Timing
from pytest_avo.core.fingerprint import Fingerprint, differences
from pytest_avo.core.kernel import Kernel, spelled_out
from pytest_avo.gate.gains import Comparand, Gains
from pytest_avo.report.results import Results

BASELINES = "baselines"
"""Folder below `.avo` of those that have a name."""
VERSION = 1
"""Version of the file's schema."""


class BaselineEntry(msgspec.Struct, frozen=True):
    """One kernel on one shape, as it was measured."""

    kernel: str
    """Path as node ids have it."""
    digest: str
    shape: str
    median_us: float
    timing: Timing


class BaselineFile(msgspec.Struct, frozen=True):
    """The content of a stored baseline."""

    version: int
    created: str
    plugin: str
    commit: dict[str, str | bool | None]
    """As pytest-benchmark's commit_info has it."""
    fingerprint: Fingerprint
    entries: list[BaselineEntry]


class StoredBaseline(msgspec.Struct, frozen=True):
    """A record that kernels are compared with, under the name that the user gave it."""

    label: str
    record: BaselineFile

    @property
    def name(self) -> str:
        return f"baseline {self.label}"

    def describe(self) -> str:
        """The baseline as the header says it."""
        commit = str(self.record.commit.get("id") or "unversioned")[:8]
        return f"{self.name} ({commit}, {self.record.created[:10]})"

    @property
    def spins(self) -> bool:
        """Whether threads spun where they waited for each other when it was stored, as those of today have to."""
        return any(entry.timing.spins for entry in self.record.entries)

    def subject(self, kernel: Kernel) -> Subject | None:
        """None: its times are there already."""

    def is_same(self, kernel: Kernel) -> bool:
        """False: the machine may have changed under an unchanged kernel."""
        return False

    def gains(self, case: Comparand, evaluation: Evaluation) -> Gains | str:
        """What the kernel gained since it was stored, or why that cannot be said."""
        timing, entry = evaluation.timing, self._entry(case)
        if entry is None or timing is None:
            return f"{self.name} has no {case.name} on this shape"
        if entry.timing.eager != timing.eager:
            return f"{self.name} was timed with --avo-calls {'eager' if entry.timing.eager else 'graph'}"
        peer = common_peer(entry.timing, timing)
        common = [kind for kind in timing.kind_names if kind in entry.timing.kind_names]
        if not common:
            return f"{self.name} was timed on {', '.join(entry.timing.kind_names)} inputs alone"
        launches = _differences(entry.timing, timing, peer, common)
        by_kind = {}
        if len(common) > 1:
            by_kind = {kind: stats.levelled(*launches, at=kind) for kind in common}
        return Gains.of_one(case.shape, stats.levelled(*launches), relative_to=peer or "", by_kind=by_kind)

    def unlike(self, case: Comparand, evaluation: Evaluation) -> str:
        """Why what is measured now says nothing beside what is stored, though nobody is to blame for it, or ""."""
        timing, entry = evaluation.timing, self._entry(case)
        if entry is None or timing is None or entry.timing.spins == timing.spins:
            return ""
        then, now = ("was idle", "is not") if entry.timing.spins else ("was not idle", "is")
        return f"the machine {then} when {self.name} was stored and {now} today: threads wait for each other otherwise"

    def median_us(self, case: Comparand, evaluation: Evaluation) -> float:
        """The stored time in microseconds per call."""
        entry = self._entry(case)
        assert entry is not None, "there are gains, so it is stored"
        return entry.median_us

    def _entry(self, case: Comparand) -> BaselineEntry | None:
        mine = (x for x in self.record.entries if (x.kernel, x.shape) == (spelled_out(case.name), case.shape.id))
        return next(mine, None)


def _differences(
    old: Timing, new: Timing, peer: str | None, common: Sequence[str]
) -> tuple[list[list[float]], list[list[str]]]:
    """Log times old less new, launch after launch, of the rounds on common kinds of inputs, and their kinds.

    The rounds of the two runs are independent: pairing those of a kind in any order gives the spread of the difference.
    """
    then = zip(itertools.chain(*relative(old, peer)), itertools.chain(*old.kinds_by_launch), strict=True)
    of_kind: dict[str, list[float]] = {}
    for value, kind in then:
        of_kind.setdefault(kind, []).append(value)
    past = {kind: itertools.cycle(values) for kind, values in of_kind.items()}
    differences: list[list[float]] = []
    names: list[list[str]] = []
    for launch, kinds in zip(relative(new, peer), new.kinds_by_launch, strict=True):
        kept = [(now, kind) for now, kind in zip(launch, kinds, strict=True) if kind in common]
        if kept:
            differences.append([next(past[kind]) - now for now, kind in kept])
            names.append([kind for _, kind in kept])
    return differences, names


def relative(timing: Timing, peer: str | None) -> list[list[float]]:
    """Log times of the kernel, launch after launch, relative to a peer's where one is named."""
    kernel = timing.seconds[KERNEL]
    if peer is None:
        return [[math.log(x) for x in launch] for launch in kernel]
    return [stats.log_ratios(mine, others) for mine, others in zip(kernel, timing.seconds[peer], strict=True)]


def common_peer(old: Timing, new: Timing) -> str | None:
    """The first peer by name that both were timed beside."""
    return min((set(old.seconds) & set(new.seconds)) - {KERNEL, BASELINE}, default=None)


def prepare_saving(path: Path) -> None:
    """Make the folder that a baseline is stored in; InvalidInput where it cannot be. Cheap: ask before a long run."""
    try:
        make_folder(path.parent)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from None
    prepare(path)


def save(found: Results, path: Path) -> int:
    """Store what was measured of right kernels; how many shapes that is. InvalidInput when it cannot be written."""
    entries = [
        BaselineEntry(spelled_out(row.kernel), row.digest, row.shape.id, row.median_s * 1e6, row.timing)
        for row in found.rows
        if row.verdict.is_good and row.timing is not None
    ]
    prepare_saving(path)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    commit = msgspec.convert(commit_info(found.rootdir), dict[str, str | bool | None])
    record = BaselineFile(VERSION, created, __version__, commit, found.fingerprint, entries)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")
    return len(entries)


def stored(name: str, folder: Path, *, fingerprint: Fingerprint, allow_mismatch: bool) -> StoredBaseline:
    """The baseline that `--avo-compare` names: a file of `folder`, or a path.

    InvalidInput where there is none, it cannot be read, or it comes from a machine whose figures do not compare.
    """
    path = Path(name) if is_path(name) else baseline_path(name, folder, option="--avo-compare")
    try:
        record = msgspec.json.decode(path.read_bytes(), type=BaselineFile)
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in folder.glob("*.json"))) or "none"
        raise InvalidInput(
            f"--avo-compare {name}: there is no {path}; expected git:REF, a path or a stored baseline ({known})"
        ) from None
    except OSError as error:
        raise InvalidInput(f"--avo-compare {name}: {path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"--avo-compare {name}: {path}: expected what --avo-save wrote: {error}") from None
    if record.version != VERSION:
        raise InvalidInput(
            f"--avo-compare {name}: {path}, key version: expected {VERSION}, got {record.version}; store it anew"
        )
    if not allow_mismatch and (found := differences(fingerprint, record.fingerprint)):
        raise InvalidInput(
            f"--avo-compare {name}: stored on another machine or with other versions, so its times do not compare "
            f"(--avo-allow-mismatch compares all the same): {'; '.join(found)}"
        )
    return StoredBaseline(path.stem, record)


def baseline_path(name: str, folder: Path, *, option: str = "--avo-save") -> Path:
    """Where a baseline is stored; InvalidInput for a name that is no file's, which was given with `option`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InvalidInput(f"{option}: expected a name of letters, digits, '.', '_' and '-', got {name!r}")
    return folder / f"{name}.json"


def is_path(name: str) -> bool:
    """Whether the user means a file, not the name of a stored baseline."""
    return "/" in name or name.endswith(".json")


def automatic_name(rootdir: Path) -> str:
    """Date, time and commit: `20261125-150501-1a2b3c4d`, with `-dirty` where files differ from the commit."""
    commit = commit_info(rootdir)
    dirty = "-dirty" if commit["dirty"] else ""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{str(commit['id'])[:8]}{dirty}"
