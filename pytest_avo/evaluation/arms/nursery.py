"""The worker's side of the zygote: starts kernels' processes and makes sure that they are gone afterwards."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_avo.core.disk.text_form import TextForm
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Subject
from pytest_avo.core.kernel import text_digest
from pytest_avo.evaluation.arms.berth import Berth, Spare, private_folders
from pytest_avo.evaluation.arms.log import Log
from pytest_avo.evaluation.kernel_process.wire import KERNEL_FILE, MAX_MESSAGE
from pytest_avo.evaluation.linux import cgroup, processes, python
from pytest_avo.evaluation.linux.process_tree import ProcessTree
from pytest_avo.evaluation.linux.removal import remove_tree
from pytest_avo.evaluation.linux.sandbox import PID_NAMESPACE

if TYPE_CHECKING:
    from pytest_avo.evaluation.arms.arm import Arm
    from pytest_avo.evaluation.arms.memory import Memory

START_LIMIT_S = 120.0
REAP_LIMIT_S = 10.0
MOST_DYING = 4
"""Processes that may be dying at a time: they hold their memory until they are gone, on a GPU too."""
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "CC", "CXX")
"""What of the user's environment reaches a kernel; no key and no token is among it."""


class Nursery:
    """One zygote and the arms forked from it."""

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
        self.box = box
        self._place = place
        self._environment = environment
        self._warm = tuple(warm)
        self._layers = False
        self._ready = False
        self.layers: tuple[str, ...] = ()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments: Memory | None = None
        self._owned: set[int] = set()
        self._dying: list[int] = []
        """Killed, and not known to be gone yet."""
        self._keeps_spares = spares
        self._spare: Spare | None = None
        self._folders: dict[str, Path] = {}
        """Of kernels that were given a spare's, by digest."""
        self._numbers = itertools.count(1)

    @property
    def is_alive(self) -> bool:
        """Whether the zygote, and so every process forked from it, can still be there."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, layers: bool) -> None:
        """Start the zygote; `wait` waits for it. layers: confine what it forks by more than limits."""
        self._layers = layers
        self._ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_LIMIT_S)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        # The zygote must find this package however the worker did; its children lose the variable again.
        private = {"LC_ALL": "C.UTF-8", "HOME": str(self.box), "PYTHONPATH": python.search_path(), **python.NOBODY}
        environment = {**kept, **private, **self._environment}
        command = python.command("pytest_avo.evaluation.kernel_process.zygote")
        command += [str(theirs.fileno()), "layers" if layers else "plain", self._place]
        with (self.box / "zygote.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._warm],
                env=environment,
                cwd=self.box,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()

    def wait(self) -> None:
        """Block until the zygote has imported what it imports; one that was lost is replaced."""
        if not self.is_alive:
            self.kill()
            self.start(layers=self._layers)
        if not self._ready:
            self.layers = tuple(self._receive()["layers"])
            self._ready = True

    def fork(self, subject: Subject, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int) -> Arm:
        """A new process for a kernel, its file in place and nothing of it executed yet."""
        from pytest_avo.evaluation.arms.arm import Arm  # with torch, which the zygote imports meanwhile

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
            berth = self._berth(scratch, **needs)
            try:
                pid, link = self._start(berth.request, berth.descriptors)
            finally:
                os.close(berth.log.write_end)
            found = Spare(berth, link, pid)
        if self._keeps_spares:
            self._order_spare(needs)
        tree = ProcessTree(found.pid, orphans=list if PID_NAMESPACE in self.layers else self._orphans)
        berth = found.berth
        return Arm(
            tree,
            link=found.link,
            given=berth.given,
            result=berth.result,
            log=berth.log,
            label=subject.label,
            memory_bytes=memory_bytes,
        )

    def _berth(self, folder: Path, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int) -> Berth:
        given, result = self._memory(given_bytes, result_bytes)
        return Berth(folder, given, result, Log(), threads, memory_bytes)

    def _taken_spare(self, subject: Subject, needs: Mapping[str, int]) -> Spare | None:
        """The spare, if there is one that serves a kernel which has no folder yet: its own becomes that."""
        if self._spare is None or self._folder(subject).exists():
            return None
        self._hear_of_spare()
        if not self._spare.berth.serves(**needs) or not processes.is_running(self._spare.pid):
            self.end_spare()
            return None
        spare, self._spare = self._spare, None
        self._folders[text_digest(subject.source)] = spare.berth.folder
        return spare

    def end_spare(self) -> None:
        """Kill the process that waits for a kernel, if there is one."""
        self._hear_of_spare()
        if self._spare is not None:
            processes.kill_group(self._spare.pid)
            self._dying.append(self._spare.pid)
            self._spare.close()
            self._spare = None

    def _order_spare(self, needs: Mapping[str, int]) -> None:
        """Have a process forked for whatever kernel comes next; it is not waited for."""
        if self._spare is not None:
            return
        assert self._control is not None
        folder = self.box / "kernels" / f"spare-{next(self._numbers)}"
        folder.mkdir(parents=True)
        berth = self._berth(folder, **needs)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            socket.send_fds(self._control, [json.dumps(berth.request).encode()], [theirs.fileno(), *berth.descriptors])
        except OSError:  # the zygote is gone, as whoever needs it next is told
            ours.close()
            berth.close()
        else:
            self._spare = Spare(berth, ours)
        finally:
            theirs.close()
            os.close(berth.log.write_end)

    def _hear_of_spare(self) -> None:
        """Take the zygote's answer about a spare, which comes before any other that is waited for."""
        if self._spare is not None and not self._spare.pid:
            self._spare.pid = int(self._receive()["pid"])
            self._owned.add(self._spare.pid)

    def fork_compiler(
        self, subject: Subject, *, how: Mapping[str, Any], memory_bytes: int
    ) -> tuple[int, socket.socket]:
        """A new process that compiles for a kernel, out of reach of the device, and a socket to ask it on.

        how: as `serve` of kernel_process.ahead takes it.
        """
        self.wait()
        scratch = self._scratch(subject)
        request = {
            "do": "compile",
            "scratch": str(scratch),
            "environment": private_folders(scratch),
            "memory_bytes": memory_bytes,
            "how": dict(how),
        }
        with open(os.devnull, "r+b") as nothing:
            return self._start(request, [nothing.fileno()] * 3)

    def end(self, arm: Arm) -> str:
        """Kill an arm with all below it, verify that it is gone, and say how its process ended."""
        arm.kill()
        try:
            return self._reap(arm.pid)
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
        if self.is_alive:  # else it ended with the zygote
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
        """End the zygote, and with it all that it forked."""
        if self._process is None:
            return
        # What left its process group has the zygote, a subreaper, as its parent and would be anybody's orphan after it.
        deadline = time.monotonic() + REAP_LIMIT_S
        while below := [x.pid for x in processes.tree(self._process.pid)[1:] if x.state != "Z"]:
            processes.send(below, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        self._process.kill()
        self._process.wait()
        self._owned.clear()
        self._dying.clear()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        self._process = None
        self._ready = False
        if self._control is not None:
            self._control.close()

    def _start(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, socket.socket]:
        """Have the zygote fork; the number of the new process and this end of the socket that it is asked on."""
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._hear_of_spare()
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno(), *descriptors])
            pid = int(self._receive()["pid"])
        except EvaluatorError:
            ours.close()
            raise
        except OSError as error:
            ours.close()
            raise EvaluatorError(f"the zygote did not fork: {error}") from None
        finally:
            theirs.close()
        self._owned.add(pid)
        return pid, ours

    def _reap(self, pid: int) -> str:
        """How a process ended that was killed, once it is gone with all of its group."""
        try:
            assert self._control is not None
            self._hear_of_spare()
            self._control.send(json.dumps({"do": "reap", "pid": pid}).encode())
            status = int(self._receive()["status"])
        except (OSError, EvaluatorError):
            self.kill()
            return "took the process that it was forked from down with it"
        _verify_gone(pid)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"exited with status {code}"
        limited = cgroup.memory_limit() if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{f', {limited}' if limited else ''}"

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

    def _orphans(self) -> list[int]:
        """Processes below the zygote that nobody was said to own: whichever kernel runs at the moment left them."""
        assert self._process is not None
        self._hear_of_spare()
        new = [pid for pid in processes.children(self._process.pid) if pid not in self._owned]
        self._owned.update(new)
        return new

    def _receive(self) -> dict[str, Any]:
        assert self._control is not None
        if not (message := self._control.recv(MAX_MESSAGE)):
            log = (self.box / "zygote.log").read_text(errors="replace").strip().splitlines()
            raise EvaluatorError(f"the zygote ended: {log[-1] if log else 'no output'}")
        answer: dict[str, Any] = json.loads(message)
        return answer

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


def _verify_gone(pid: int) -> None:
    """Raise unless the process group is empty; the kernel may need a moment to tear it down."""
    deadline = time.monotonic() + REAP_LIMIT_S
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.005)
    raise EvaluatorError(f"process group {pid} survived SIGKILL for {REAP_LIMIT_S:g} s")
