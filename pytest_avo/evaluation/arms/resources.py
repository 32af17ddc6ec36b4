"""What a kernel's process is given: a private folder, memory for arguments and results, a log. And spare processes."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_avo.evaluation.arms.memory import Memory

LOG_BYTES = 16384


class Log:
    """The last of what a process printed, read by a thread so that a flood neither blocks it nor fills memory."""

    def __init__(self) -> None:
        self._read, self.write_end = os.pipe()
        self._tail = bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all that processes printed is read, once they are gone."""
        self._thread.join(timeout=1.0)

    @property
    def tail(self) -> str:
        return bytes(self._tail[-LOG_BYTES:]).decode("utf-8", "replace")

    def _drain(self) -> None:
        while data := os.read(self._read, 65536):
            self._tail += data
            del self._tail[: -2 * LOG_BYTES]
        os.close(self._read)


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one process. They do not depend on the kernel, whose file is put into the folder later."""

    folder: Path
    given: Memory
    result: Memory
    log: Log
    threads: int
    memory_bytes: int

    @property
    def request(self) -> dict[str, object]:
        """The request to the fork server that goes with them."""
        return {
            "do": "fork",
            "scratch": str(self.folder),
            "environment": private_folders(self.folder),
            "threads": self.threads,
            "memory_bytes": self.memory_bytes,
            "sizes": [self.given.size, self.result.size],
        }

    @property
    def descriptors(self) -> list[int]:
        """The file descriptors that are sent along with the request."""
        return [self.given.descriptor, self.result.descriptor, self.log.write_end]

    def serves(self, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int) -> bool:
        """Whether they suffice for a kernel that needs this much."""
        enough = self.given.size >= given_bytes and self.result.size >= result_bytes
        return enough and (self.threads, self.memory_bytes) == (threads, memory_bytes)

    def close(self) -> None:
        """Free this side's mappings of the memory."""
        self.given.close()
        self.result.close()


@dataclass(frozen=True, slots=True)
class Spare:
    """A process that was forked ahead and waits for the next new kernel."""

    resources: Resources
    link: socket.socket

    def close(self) -> None:
        """Free this side's memory and socket, once the process is killed."""
        self.link.close()
        self.resources.close()


def private_folders(folder: Path) -> dict[str, str]:
    """Variables that keep what a kernel writes, and compiles, in its own folder."""
    names = {
        "HOME": "",
        "TMPDIR": "",
        "XDG_CACHE_HOME": "cache",
        "TRITON_CACHE_DIR": "triton",
        "TORCH_EXTENSIONS_DIR": "extensions",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "CUDA_CACHE_PATH": "cuda",
    }
    return {variable: str(folder / name) for variable, name in names.items()}
