"""What a kernel's process prints."""

from __future__ import annotations

import os
import threading

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
