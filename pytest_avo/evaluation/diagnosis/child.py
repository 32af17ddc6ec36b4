"""A process for a kernel's code outside the judge: compiled, profiled or interpreted, with no key and no GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pytest_avo.core.disk.places import scratch_folder
from pytest_avo.core.disk.text_form import TextForm
from pytest_avo.core.kernel import Kernel
from pytest_avo.evaluation.linux import processes, python

LAST_BYTES = 4096
"""How much of the end of the output is searched for its last line."""


class Child:
    """A module of this folder run as a process, with a kernel's file in a private folder. Close it."""

    def __init__(
        self,
        module: str,
        kernel: Kernel,
        *,
        confined: bool,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """module: its name, whose command line takes the file, `arguments`, and --scratch where it is to be confined.

        environment: variables beside the few that the process is given. under: a command that runs the process, a
        profiler's; it starts in the private folder.
        """
        self._folder = tempfile.TemporaryDirectory(
            prefix=f"pytest-avo-{module.rpartition('.')[2]}-", dir=scratch_folder()
        )
        self.scratch = Path(self._folder.name)
        copy = self.scratch / "kernel.py"
        copy.write_bytes(TextForm().encoded(kernel.source))
        # No pipe: a kernel that prints in every call would soon fill it and wait.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._in_time = True
        scratch = str(self.scratch)
        private = {"HOME": scratch, "TMPDIR": scratch, "TRITON_CACHE_DIR": scratch, "LC_ALL": "C.UTF-8"}
        private |= {"PYTHONPATH": python.search_path(), **python.NOBODY}
        self._process = subprocess.Popen(
            [
                *under,
                *python.command(f"{__package__}.{module}", str(copy), *arguments),
                *(["--scratch", scratch] if confined else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={"PATH": os.environ.get("PATH", ""), **private, **(environment or {})},
            cwd=scratch,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.requests: IO[bytes] = self._process.stdin
        self.answers: IO[bytes] = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        return self._status(os.WNOHANG) is None

    @contextlib.contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """End the process, and with it whatever waits for it, where the block takes longer; `in_time` is False then."""
        stuck = threading.Timer(limit_s, self._run_out)
        stuck.start()
        try:
            yield
        finally:
            stuck.cancel()

    @property
    def in_time(self) -> bool:
        """Whether no limit ended the process."""
        return self._in_time

    def status(self) -> int:
        """Wait for the end of the process; its exit status, or the negative number of the signal that ended it."""
        status = self._status(0)
        assert status is not None
        return status

    def last_words(self) -> str:
        """The last line that the process printed, or ""."""
        return "".join(self.end_of_words().strip().splitlines()[-1:])

    def end_of_words(self, most_bytes: int = LAST_BYTES) -> str:
        """The end of what the process printed."""
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - most_bytes))
        return self._said.read().decode(errors="replace")

    def close(self) -> None:
        """End the process and all below it, and remove its folder."""
        if self._process.returncode is None:
            self._kill()
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.answers.close()
        self._process.wait()
        self._said.close()
        self._folder.cleanup()

    def _run_out(self) -> None:
        self._in_time = False
        self._kill()

    def _kill(self) -> None:
        """Kill the process and what it started. It stays a zombie until `close`, so that its number stays its own."""
        below = [process.pid for process in processes.tree(self.pid)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        processes.send(below, signal.SIGKILL)

    def _status(self, options: int) -> int | None:
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | options)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
