"""Starts kernels' processes by way of the fork server, and makes sure that they are gone afterwards."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_avo.core.disk.text_form import TextForm
from pytest_avo.core.evaluation import Subject
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.arms.fork_server import ForkServer
from pytest_avo.evaluation.arms.resources import Log, Resources, Spare, private_folders
from pytest_avo.evaluation.kernel_process.wire import KERNEL_FILE
from pytest_avo.evaluation.linux import processes
from pytest_avo.evaluation.linux.process_tree import ProcessTree
from pytest_avo.evaluation.linux.removal import remove_tree
from pytest_avo.evaluation.linux.sandbox import PID_NAMESPACE

if TYPE_CHECKING:
    from pytest_avo.evaluation.arms.arm import Arm
    from pytest_avo.evaluation.arms.memory import Memory

MOST_DYING = 4
"""Processes that may be dying at a time: they hold their memory until they are gone, on a GPU too."""


class Spawner(ForkServer):
    """The processes of arms and of compilers: forked, killed, verified to be gone."""

    def __init__(
        self,
        *,
        box: Path,
        environment: Mapping[str, str],
        warm: Sequence[str],
        place: str = "cpu",
        spares: bool = False,
    ) -> None:
        """spares: keep a process ready for the next new kernel; forking and confining one takes some 25 ms."""
        super().__init__(box=box, environment=environment, warm=warm, place=place)
        self._arguments: Memory | None = None
        self._dying: list[int] = []
        """Killed, and not known to be gone yet."""
        self._keeps_spares = spares
        self._spare: Spare | None = None
        self._folders: dict[str, Path] = {}
        """Folders of kernels that run in what was a spare process, by the digest of their source."""
        self._numbers = itertools.count(1)

    def fork(self, subject: Subject, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int) -> Arm:
        """A new process for a kernel, its file in place and nothing of it executed yet."""
        from pytest_avo.evaluation.arms.arm import Arm  # with torch, which the fork server imports meanwhile

        self.wait()
        if self._place == "cuda":
            # All are given the same memory for arguments, which work of one that was killed may still reach.
            self.settle()
        needs = {
            "given_bytes": given_bytes, "result_bytes": result_bytes, "threads": threads, "memory_bytes": memory_bytes,
        }  # fmt: skip
        found = self._taken_spare(subject, needs)
        scratch = self._scratch(subject)
        if found is None:
            resources = self._resources(scratch, **needs)
            try:
                pid, link = self._start(resources.request, resources.descriptors)
            finally:
                os.close(resources.log.write_end)
            found = pid, Spare(resources, link)
        if self._keeps_spares:
            self._order_spare(needs)
        pid, taken = found
        tree = ProcessTree(pid, orphans=list if PID_NAMESPACE in self.layers else self._orphans)
        return Arm(
            tree,
            link=taken.link,
            given=taken.resources.given,
            result=taken.resources.result,
            log=taken.resources.log,
            label=subject.label,
            memory_bytes=memory_bytes,
        )

    def _resources(
        self, folder: Path, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int
    ) -> Resources:
        given, result = self._memory(given_bytes, result_bytes)
        return Resources(folder, given, result, Log(), threads, memory_bytes)

    def _taken_spare(self, subject: Subject, needs: Mapping[str, int]) -> tuple[int, Spare] | None:
        """The spare process and its number, if it fits and the kernel is new: it gets the spare's folder."""
        if self._spare is None or self._folder(subject).exists():
            return None
        pid = self.ordered()
        if not self._spare.resources.serves(**needs) or not processes.is_running(pid):
            self.end_spare()
            return None
        spare, self._spare = self._spare, None
        self._folders[text_digest(subject.source)] = spare.resources.folder
        return pid, spare

    def end_spare(self) -> None:
        """Kill the process that waits for a kernel, if there is one."""
        if self._spare is not None:
            processes.kill_group(self.ordered())
            self._dying.append(self.ordered())
            self._spare.close()
            self._spare = None

    def _order_spare(self, needs: Mapping[str, int]) -> None:
        """Have a process forked for whatever kernel comes next; it is not waited for."""
        if self._spare is not None:
            return
        folder = self.box / "kernels" / f"spare-{next(self._numbers)}"
        folder.mkdir(parents=True)
        resources = self._resources(folder, **needs)
        try:
            self._spare = Spare(resources, self.order(resources.request, resources.descriptors))
        except OSError:  # the fork server is gone, as whoever needs it next is told
            resources.close()
        finally:
            os.close(resources.log.write_end)

    def fork_compiler(
        self, subject: Subject, told: int, *, how: Mapping[str, Any], memory_bytes: int, niceness: int
    ) -> tuple[int, socket.socket]:
        """A new process that compiles for a kernel, out of reach of the device, and a socket to say that it may begin.

        told: a file with the calls that it is to compile for. how: as `serve` of kernel_process.ahead takes it.
        """
        self.wait()
        scratch = self._scratch(subject)
        request = {
            "do": "compile",
            "niceness": niceness,
            "scratch": str(scratch),
            "environment": private_folders(scratch),
            "memory_bytes": memory_bytes,
            "how": dict(how),
        }
        with open(os.devnull, "r+b") as nothing:
            return self._start(request, [told, nothing.fileno(), nothing.fileno()])

    def end(self, arm: Arm) -> str:
        """Kill an arm with all below it, verify that it is gone, and say how its process ended."""
        arm.kill()
        try:
            return self._ended(arm.pid)
        finally:
            arm.close()
            arm.log.finish()

    def dismiss(self, arm: Arm) -> None:
        """Kill an arm with all below it; `settle` waits until it is gone, which takes a moment."""
        arm.kill()
        arm.close()
        self._dying.append(arm.pid)
        if len(self._dying) > MOST_DYING:
            self._reap(self._dying.pop(0))

    def end_compiler(self, pid: int) -> None:
        """Kill a compiler with all below it."""
        if self.is_alive:  # else it ended with the fork server
            processes.kill_group(pid)
            self._dying.append(pid)
            if PID_NAMESPACE not in self.layers:
                self.settle()  # what it leaves would be taken for another kernel's

    def forget(self, subject: Subject) -> None:
        """Remove a kernel's private folder, with all that was compiled in it."""
        self.settle()
        remove_tree(self._folder(subject))
        self._folders.pop(text_digest(subject.source), None)

    def settle(self) -> None:
        """Verify that all that was killed is gone: what is being torn down takes time from what runs beside it."""
        while self._dying and self.is_alive:
            self._reap(self._dying.pop())
        self._dying.clear()

    def kill(self) -> None:
        """End the fork server, and with it all that it forked."""
        super().kill()
        self._dying.clear()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _memory(self, given_bytes: int, result_bytes: int) -> tuple[Memory, Memory]:
        """Memory for the arguments and the results of a new process.

        On a GPU all processes are given the same memory for arguments: only one runs at a time, on what was written for
        it, and slices of short calls last the longer for it. What a kernel does to it shows before another one runs.
        """
        from pytest_avo.evaluation.arms.memory import device_memory, host_memory

        if self._place != "cuda":
            return host_memory(given_bytes), host_memory(result_bytes)
        if self._arguments is None:
            self._arguments = device_memory(given_bytes)
        return self._arguments.again(), device_memory(result_bytes)

    def _folder(self, subject: Subject) -> Path:
        digest = text_digest(subject.source)
        return self._folders.get(digest, self.box / "kernels" / digest)

    def _scratch(self, subject: Subject) -> Path:
        """A kernel's private folder: its file and what it compiles. One per source: no kernel is served another's."""
        folder = self._folder(subject)
        folder.mkdir(parents=True, exist_ok=True)
        # The folder is the kernel's to write: whatever it left in the place of its file must not be opened here, and it
        # may have taken its own permissions.
        folder.chmod(0o700)
        place = folder / KERNEL_FILE
        if place.is_dir() and not place.is_symlink():
            remove_tree(place)
        new = self.box / "next.py"
        new.write_bytes(TextForm().encoded(subject.source))
        new.replace(place)
        return folder
