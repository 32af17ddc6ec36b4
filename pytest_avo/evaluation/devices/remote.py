"""A device of another host, as the worker that serves it introduced it."""

from __future__ import annotations

from pytest_avo.core.evaluation import Hello
from pytest_avo.core.fingerprint import Fingerprint


class RemoteDevice:
    """What a run must know of the device that its kernels are evaluated on, where that is not this machine's."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello

    @property
    def target(self) -> str:
        return self._hello.fingerprint.target

    @property
    def peers(self) -> tuple[str, ...]:
        return self._hello.peers

    def fingerprint(self) -> Fingerprint:
        return self._hello.fingerprint
