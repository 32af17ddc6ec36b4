"""A line to one worker, here or on another host: connected over execnet, greeted, and cut."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import traceback
from typing import Any

import msgspec

from pytest_avo import __version__
from pytest_avo.evaluation.linux import cgroup, python
from pytest_avo.evaluation.worker_messages import Hello, WorkerConfig, WorkerMessage

CONNECT_LIMIT_S = 120.0
SILENCE_LIMIT_S = 60.0
"""A worker that says nothing for so long is lost: it gives a sign of life far more often."""
SSH = "-o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
"""Nobody is there to type a password. ssh takes the first of two values, so the user's own options hold."""
BOOTSTRAP = """
import sys
sys.path[:] = [*{folders!r}, *(each for each in sys.path if each and each not in {folders!r})]
try:
    from pytest_avo import __version__ as found
except ImportError:
    found = "none"
channel.send([found, sys.executable])
if found == {version!r}:
    from pytest_avo.evaluation.pool.worker import serve
    serve(channel)
"""
"""Plain Python for any version of it: the host may lack the package, or have another one."""
STATUS = {127: "the host has no such python, name one as in --tx ssh=HOST//python=PATH", 255: "ssh cannot reach it"}
"""What exit statuses of a command over ssh mean."""

_decode = msgspec.json.Decoder(WorkerMessage)


class WorkerRefused(Exception):
    """A worker that must not be used, however often it is tried; the message says why."""


class Gateway:
    """One connection. Any failure of it raises: execnet reports a lost peer by many types."""

    def __init__(self, spec: str, config: WorkerConfig) -> None:
        self.spec = spec
        self.config = config
        self._group: Any = None
        self._gateway: Any = None
        self._channel: Any = None
        self._socket: Any = None
        self._cut = False
        self._cutting = threading.Lock()

    def connect(self) -> Hello:
        """Start the worker and hear who it is. Refused where the host lacks this version of the package."""
        import execnet
        from execnet.gateway_bootstrap import HostNotFound

        group = execnet.Group()
        spec = f"{with_own_modules(with_batch_mode(self.spec))}//execmodel=main_thread_only//id={self.config.worker}"
        try:
            gateway = group.makegateway(spec)
        except HostNotFound as error:
            _close_left_open(error)
            raise ConnectionError(STATUS[255]) from None
        except OSError as error:
            _close_left_open(error)
            raise
        self._gateway, self._socket = gateway, getattr(gateway._io, "sock", None)
        with self._cutting:
            self._group = group
        if self._cut:
            self.cut()
            raise ConnectionError("the run is ending")  # cut() came too early to see the gateway
        # A worker of this machine takes the package from where it is here; another host must have it installed.
        folders = [] if host_of(self.spec) else python.folders()
        try:
            self._channel = gateway.remote_exec(BOOTSTRAP.format(folders=folders, version=__version__))
            found, interpreter = self._channel.receive(timeout=CONNECT_LIMIT_S)
        except (EOFError, OSError) as error:
            raise ConnectionError(_how_it_ended(gateway) or str(error)) from None
        if found != __version__:
            raise WorkerRefused(f"expected pytest-avo {__version__} in {interpreter}, found {found}: install it there")
        self.send(self.config)
        hello = self.receive(within_s=CONNECT_LIMIT_S)
        if not isinstance(hello, Hello):
            raise ConnectionError(f"expected an introduction, got {type(hello).__name__}")
        return hello

    def send(self, message: msgspec.Struct) -> None:
        self._channel.send(msgspec.json.encode(message))

    def receive(self, *, within_s: float | None = None) -> WorkerMessage:
        """The next message, within SILENCE_LIMIT_S unless another limit is given.

        ConnectionError, which says what is known of its end, where the worker is not there any more.
        """
        try:
            found = self._channel.receive(timeout=within_s or SILENCE_LIMIT_S)
        except EOFError as error:
            raise ConnectionError(_how_it_ended(self._gateway) or str(error)) from None
        message: WorkerMessage = _decode.decode(found)
        return message

    def cut(self) -> None:
        """End the worker and all below it; also one that is being started by another thread."""
        with self._cutting:
            self._cut = True
            group, self._group = self._group, None
            if group is not None:
                group.terminate(timeout=2.0)
                if self._socket is not None:
                    self._socket.close()  # execnet leaves it open


def host_of(spec: str) -> str:
    """The host that a gateway spec names, as it names it, or the command that finds one (srun); "" for this one."""
    keys = dict(part.partition("=")[::2] for part in spec.split("//"))
    command = keys.get("python", "").split()
    if "popen" in keys and len(command) > 1 and command[1].startswith("-"):
        return os.path.basename(command[0])  # a launcher with options; a path may have a space in it
    if "ssh" in keys:
        return keys["ssh"]
    return keys["socket"].rpartition(":")[0] if "socket" in keys else ""


def with_batch_mode(spec: str) -> str:
    """The spec with options that keep ssh from waiting for somebody or something for ever."""
    return "//".join(f"{part} {SSH}" if part.startswith("ssh=") else part for part in spec.split("//"))


def with_own_modules(spec: str) -> str:
    """The spec of a worker of this machine, whose Python heeds neither the current folder nor variables for Python."""
    parts = spec.split("//")
    if "popen" not in parts or any(part.startswith("via=") for part in parts):
        return spec
    named = next((part for part in parts if part.startswith("python=")), f"python={shlex.quote(sys.executable)}")
    return "//".join([*(part for part in parts if not part.startswith("python=")), f"{named} -E -P"])


def _close_left_open(error: Exception) -> None:
    """Close what execnet leaves open when it cannot connect: nothing but the frames of the error knows it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if (sock := frame.f_locals.get("sock")) is not None:
            sock.close()
        process = getattr(frame.f_locals.get("io"), "popen", None)
        if process is not None:
            process.stdin.close()
            process.stdout.close()


def _how_it_ended(gateway: Any) -> str:
    """Why the command behind a gateway ended, as far as its exit status says; "" where nothing is known."""
    process = getattr(gateway._io, "popen", None)
    if process is None:
        return ""
    try:
        status = process.wait(timeout=2.0)
    except Exception:  # still there: it closed its end for reasons of its own
        return ""
    if host_of(str(gateway.spec)):
        return STATUS.get(status, "")
    if status >= 0:
        return f"its python ended with status {status}"
    limited = cgroup.memory_limit()
    return f"its python was ended by signal {-status}{f', {limited}' if limited else ''}"
