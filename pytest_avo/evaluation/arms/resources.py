"""What a kernel's process is given before it runs: a private folder, memory, a place for its words; also as a spare."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_avo.evaluation.arms.log import Log

if TYPE_CHECKING:
    from pytest_avo.evaluation.arms.memory import Memory


@dataclass(frozen=True, slots=True)
class Berth:
    """All of it. Whose kernel it is for need not be known yet: its file is put into the folder later."""

    folder: Path
    given: Memory
    result: Memory
    log: Log
    threads: int
    memory_bytes: int

    @property
    def request(self) -> dict[str, object]:
        """What the zygote is told."""
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
        """What goes with that."""
        return [self.given.descriptor, self.result.descriptor, self.log.write_end]

    def serves(self, *, given_bytes: int, result_bytes: int, threads: int, memory_bytes: int) -> bool:
        """Whether a kernel that needs this much can have it."""
        enough = self.given.size >= given_bytes and self.result.size >= result_bytes
        return enough and (self.threads, self.memory_bytes) == (threads, memory_bytes)

    def close(self) -> None:
        """Free what the judge holds of it."""
        self.given.close()
        self.result.close()


@dataclass(frozen=True, slots=True)
class Spare:
    """A process that was forked ahead and waits for a kernel."""

    berth: Berth
    link: socket.socket

    def close(self) -> None:
        """Free what the judge holds of a process that is not there any more."""
        self.link.close()
        self.berth.close()


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
