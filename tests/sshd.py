"""Real ssh hosts for tests: an sshd on a port of the loopback each, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_avo.evaluation.linux import processes

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
MISSING = SSHD is None or shutil.which("ssh") is None or not (os.geteuid() or Path("/run/sshd").is_dir())
"""Whether hosts cannot be had; an sshd of root wants its folder for privilege separation."""


class Hosts:
    """Hosts by name. All of them are this machine; each has its own daemon and can be lost on its own."""

    def __init__(self, folder: Path, daemons: dict[str, subprocess.Popen[bytes]]) -> None:
        self.config = folder / "ssh_config"
        self._daemons = daemons

    def spec(self, name: str, *, python: str = sys.executable) -> str:
        """What --tx takes."""
        return f"ssh={name}//ssh_config={self.config}//python={python}"

    def pull_plug(self, name: str) -> None:
        """End a host with everything on it at once."""
        family = [process.pid for process in processes.tree(self._daemons[name].pid)]
        processes.send(family, signal.SIGSTOP)  # so that nobody says goodbye
        processes.send(family, signal.SIGKILL)
        self._daemons[name].wait()

    def freeze(self, name: str) -> None:
        """Cut a host off without a word: no connection is closed, nothing answers any more."""
        processes.send([process.pid for process in processes.tree(self._daemons[name].pid)], signal.SIGSTOP)


@contextmanager
def hosts(folder: Path, names: Sequence[str], *, environment: dict[str, str]) -> Iterator[Hosts]:
    """Start a daemon for each name; what logs in there gets the environment."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    daemons: dict[str, subprocess.Popen[bytes]] = {}
    client = []
    try:
        for name in names:
            port = _free_port()
            daemons[name] = _start(folder, name, port, environment)
            client += [f"Host {name}", "  HostName 127.0.0.1", f"  Port {port}", f"  User {getpass.getuser()}"]
            client += [f"  IdentityFile {folder / 'user'}", "  IdentitiesOnly yes", "  StrictHostKeyChecking no"]
            client += ["  UserKnownHostsFile /dev/null", "  LogLevel ERROR"]
        made = Hosts(folder, daemons)
        made.config.write_text("\n".join([*client, ""]))
        yield made
    finally:
        for name, daemon in daemons.items():
            if daemon.poll() is None:
                Hosts(folder, daemons).pull_plug(name)


def _start(folder: Path, name: str, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    assert SSHD is not None
    variables = " ".join(f"{key}={value}" for key, value in environment.items())
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'user.pub'}",
        f"PidFile {folder / name}.pid",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        f"SetEnv {variables}",
    ]
    config = folder / f"{name}.sshd"
    config.write_text("\n".join([*lines, ""]))
    daemon = subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(folder / f"{name}.log")])
    deadline = time.monotonic() + 180
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=60):
            return daemon
        assert daemon.poll() is None, (folder / f"{name}.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
