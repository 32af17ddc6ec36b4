"""The processes that a worker keeps: one per kernel, started on demand, shared by the shapes of a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_avo.core.evaluation import Limits, Subject
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.faults import KernelEnded, KernelFault
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.correctness.room import HOST, Room


@dataclass(slots=True)
class _Kept:
    digest: str
    arm: Arm
    threads: int
    build_s: float
    is_loaded: bool = False
    built: set[tuple[str, str]] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)


class Arms:
    """One process per arm of a comparison, by the arm's name. A process that misbehaved is never used again."""

    def __init__(
        self, spawner: Spawner, *, threads: int, memory_bytes: int, room: Room = HOST, sharing: int = 1
    ) -> None:
        """sharing: how many such keepers of processes there are on these cores."""
        self.room = room
        self._spawner = spawner
        self._threads = threads
        self._shared_threads = max(1, threads // sharing)
        self._memory_bytes = memory_bytes
        self._kept: dict[str, _Kept] = {}
        self._last_words: dict[str, str] = {}

    def get(self, name: str, subject: Subject, shapes: Sequence[Shape], limits: Limits, *, timed: bool = True) -> Arm:
        """The process of an arm, loaded, with room for any slice of the shapes. KernelFault when it does not load.

        timed: with a thread for every core, also where others are at work on them.
        """
        kept = self._begin(name, subject, shapes, timed=timed)
        if not kept.is_loaded:
            try:
                kept.build_s = kept.arm.load(limits.build)
            except (KernelFault, KernelEnded) as error:
                raise self.fault(name, error) from None
            kept.is_loaded = True
        return kept.arm

    def begin(self, subjects: Mapping[str, Subject], shapes: Sequence[Shape], *, anew: Collection[str]) -> None:
        """Start the processes of several arms side by side; `get` waits for each. anew: those that are not to be kept.

        A GPU's context takes a third of a second, to make and to tear down: for all of them hardly more than for one.
        """
        for name in anew:
            self.drop(name)
        self.settle()
        for name, subject in subjects.items():
            with contextlib.suppress(KernelEnded):  # `get` says how
                self._begin(name, subject, shapes, timed=True).arm.begin_load()

    def _begin(self, name: str, subject: Subject, shapes: Sequence[Shape], *, timed: bool) -> _Kept:
        """The process of an arm, which may not be loaded yet."""
        if not self._spawner.is_alive:
            self._bury()
        given_bytes, result_bytes = self.room.for_shapes(shapes)
        digest = text_digest(subject.source)
        threads = self._threads if timed else self._shared_threads
        kept = self._kept.get(name)
        if (
            kept
            and kept.digest == digest
            and kept.threads == threads
            and kept.arm.given.size >= given_bytes
            and kept.arm.result.size >= result_bytes
        ):
            return kept
        self.drop(name)
        arm = self._spawner.fork(
            subject,
            given_bytes=given_bytes,
            result_bytes=result_bytes,
            threads=threads,
            memory_bytes=self._memory_bytes,
        )
        kept = self._kept[name] = _Kept(digest, arm, threads, 0.0)
        return kept

    def take_build_s(self, name: str) -> float:
        """Seconds that importing the kernel took in its present process; told once, however many shapes it has."""
        if name not in self._kept:
            return 0.0
        kept = self._kept[name]
        taken, kept.build_s = kept.build_s, 0.0
        return taken

    def is_first_call(self, name: str, shape: Shape, what: str = "") -> bool:
        """Whether the present process never saw this shape in such a call: kernels compile then."""
        built = self._kept[name].built
        new = (shape.id, what) not in built
        built.add((shape.id, what))
        return new

    def note_check(self, name: str, shape: Shape) -> None:
        """Remember that the present process was asked all of a check."""
        self._kept[name].checked.add(shape.id)

    def is_checked(self, name: str, subject: Subject, shape: Shape) -> bool:
        """Whether a subject's present process was asked all of a check."""
        kept = self._kept.get(name)
        return kept is not None and kept.digest == text_digest(subject.source) and shape.id in kept.checked

    def has_another(self, name: str, subject: Subject) -> bool:
        """Whether the arm has a process, of another kernel."""
        kept = self._kept.get(name)
        return kept is not None and kept.digest != text_digest(subject.source)

    def log(self, name: str) -> str:
        """What the arm's process printed last before it was ended for a fault."""
        return self._last_words.get(name, "")

    def fault(self, name: str, error: KernelFault | KernelEnded) -> KernelFault:
        """End an arm's process after an error and return the fault with what is now known of how it ended."""
        kept = self._kept.pop(name, None)
        how = "ended"
        if kept is not None:
            if isinstance(error, KernelEnded):
                how = self._spawner.end(kept.arm)
            else:
                self._spawner.dismiss(kept.arm)
                kept.arm.log.finish()
            self._last_words[name] = kept.arm.log.tail
        return KernelFault("crashed", f"process {how} in {error}") if isinstance(error, KernelEnded) else error

    def drop(self, name: str) -> None:
        """End an arm's process, if there is one, so that the next use starts afresh."""
        if kept := self._kept.pop(name, None):
            self._spawner.dismiss(kept.arm)

    def settle(self) -> None:
        """Wait until processes that were ended are gone."""
        self._spawner.settle()

    def _bury(self) -> None:
        """Forget the processes if the fork server, and they with it, ended: that is no fault of the next kernel."""
        for kept in self._kept.values():
            kept.arm.close()
        self._kept.clear()
