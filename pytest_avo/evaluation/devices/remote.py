"""A device of another host, as the worker that serves it introduced it."""

from __future__ import annotations

from pytest_avo.core.fingerprint import Fingerprint


class RemoteDevice:
    """What a run must know of the device that its kernels are evaluated on, where that is not this machine's."""

    def __init__(self, fingerprint: Fingerprint, peers: tuple[str, ...]) -> None:
        """peers: those that it offers."""
        self._fingerprint = fingerprint
        self.peers = peers

    @property
    def target(self) -> str:
        return self._fingerprint.target

    def fingerprint(self) -> Fingerprint:
        return self._fingerprint
