"""The folder of a spool: files that appear whole, once, and are never changed, also on NFS and Lustre.

No locks (flock is a matter of mount options there), no times (hosts' clocks differ): a file is written under a name of
its own and then linked to its place, which exactly one of several writers can do. Only beats are written in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pytest_avo.core.errors import InvalidInput

Drawer = Literal["devices", "requests", "claims", "answers", "servers"]
PARTS: tuple[Drawer, ...] = ("devices", "requests", "claims", "answers", "servers")
UNFINISHED = "unfinished"
"""Where files are written before they are linked to their places. What a kill leaves there is of no use to anybody."""
README = "README"
ABOUT = """A spool of pytest-avo: requests to evaluate kernels, and their answers.

    pytest --avo-serve {name}          answers what is asked here, on the machine with the device
    pytest --avo-evolve --tx spool={name}    asks

Copied elsewhere and answered there, it is brought home by copying devices/ and answers/ over this folder.
"""
T = TypeVar("T")


class SpoolFolder:
    """A spool's folder. OSError where the file system fails, unless a method says otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make what is missing of it; InvalidInput where the folder cannot be used."""
        try:
            for part in (*PARTS, UNFINISHED):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            if not (self.path / README).exists():
                (self.path / README).write_text(ABOUT.format(name=self.path.name), encoding="utf-8")
            self._check_links()
        except OSError as error:
            raise InvalidInput(f"{self.path}: cannot be a spool: {error.strerror or error}") from None

    def _check_links(self) -> None:
        """OSError where a file cannot have a second name, as on exFAT: then none could appear whole and once."""
        first, second = (self.path / UNFINISHED / f"check.{secrets.token_hex(4)}" for _ in range(2))
        try:
            first.touch()
            os.link(first, second)
        except OSError as error:
            raise OSError(error.errno, f"its files cannot have second names (hard links): {error.strerror}") from None
        finally:
            for each in (first, second):
                each.unlink(missing_ok=True)

    def publish(self, part: Drawer, name: str, value: object) -> bool:
        """Write a file that must appear once; False where it is there already, whoever wrote it."""
        content = value if isinstance(value, bytes) else msgspec.json.encode(value)
        try:
            return self._publish(part, name, content)
        except FileNotFoundError:
            self.make()  # a copy of a spool lacks the folders that were empty
            return self._publish(part, name, content)

    def _publish(self, part: Drawer, name: str, content: bytes) -> bool:
        draft = self.path / UNFINISHED / f"{name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, self.path / part / name)
            except FileExistsError:
                # NFS may have done it and lost the reply; the repeated call then finds the file there: our own.
                return draft.stat().st_nlink == 2
            return True
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def names(self, part: Drawer) -> set[str]:
        """What there is; nothing where the folder cannot be read just now."""
        with contextlib.suppress(OSError):
            return set(os.listdir(self.path / part))
        return set()

    def read(self, part: Drawer, name: str, kind: type[T]) -> T | None:
        """What a file says; None where there is none, or only a part of one yet, as while a folder is copied."""
        try:
            return msgspec.json.decode((self.path / part / name).read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None

    def remove(self, part: Drawer, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            (self.path / part / name).unlink()

    def last_claims(self) -> dict[str, int]:
        """Request -> number of the last claim on it. A claim is never given up: the next one takes the next number."""
        last: dict[str, int] = {}
        for claim in self.names("claims"):
            name, _, number = claim.rpartition(".")
            if number.isdecimal():
                last[name] = max(last.get(name, 0), int(number))
        return last

    def drop_request(self, name: str) -> None:
        """Remove an answered request, then its claims: in this order, so that nobody finds it unclaimed."""
        self.remove("requests", name)
        for claim in self.names("claims"):
            if claim.partition(".")[0] == name:
                self.remove("claims", claim)


class Patience:
    """Says once that the file system refuses something, and once that it is over."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._failing = False

    def succeeded(self) -> None:
        if self._failing:
            self._say(f"spool {self._path}: can be written again")
        self._failing = False

    def failed(self, error: OSError) -> None:
        if not self._failing:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            self._say(f"spool {self._path}: cannot be written: {reason}; trying again until it can")
        self._failing = True
