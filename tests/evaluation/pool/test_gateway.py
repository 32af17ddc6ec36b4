"""Gateways to other hosts: real ones, over ssh on the loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_avo import __version__
from pytest_avo.evaluation.linux import cgroup
from pytest_avo.evaluation.pool.gateway import Gateway, WorkerRefused, host_of, with_batch_mode
from pytest_avo.evaluation.worker_messages import WorkerConfig
from tests import sshd

CONFIG = WorkerConfig(worker="gw0", layers=True)
needs_sshd = pytest.mark.skipif(sshd.MISSING, reason="needs sshd, ssh and, for root, /run/sshd")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Hosts]:
    folder = tmp_path_factory.mktemp("ssh")
    environment = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "THEIR_API_KEY": "sk-of-the-host"}
    with sshd.hosts(folder, ["alpha"], environment=environment) as made:
        yield made


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("popen", ""),
        ("popen//python=/opt/ssh=odd/python", ""),
        ("popen//python=/opt/my pythons/python", ""),
        ("popen//python=srun --unbuffered python3", "srun"),
        ("ssh=alpha//python=/opt/python", "alpha"),
        ("ssh=-p 2222 me@alpha", "-p 2222 me@alpha"),
        ("socket=alpha:8888", "alpha"),
    ],
)
def test_a_spec_names_its_place(spec: str, host: str) -> None:
    assert host_of(spec) == host


def test_options_of_the_user_come_before_ours() -> None:
    found = with_batch_mode("ssh=-o BatchMode=no alpha//python=python3")
    assert found.startswith("ssh=-o BatchMode=no alpha -o BatchMode=yes ")
    assert found.endswith("//python=python3")
    assert with_batch_mode("popen//python=python3") == "popen//python=python3"


def test_what_ended_a_worker_of_this_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "60"])
    ended = SimpleNamespace(_io=SimpleNamespace(popen=process), spec="popen")
    gateway = Gateway("popen", CONFIG)
    gateway._gateway, gateway._channel = ended, SimpleNamespace(receive=_at_its_end)
    process.kill()
    monkeypatch.setattr(cgroup, "machine_bytes", lambda: 8 * 10**9)
    monkeypatch.setattr(cgroup, "memory_bytes", lambda *_: 3 * 10**8)
    with pytest.raises(ConnectionError, match="ended by signal 9, its control group allows 300 MB of memory"):
        gateway.receive()


def _at_its_end(timeout: float) -> bytes:
    raise EOFError("couldn't load message header, expected 9 bytes, got 0")


@needs_sshd
def test_a_worker_on_another_host_introduces_itself(hosts: sshd.Hosts) -> None:
    gateway = Gateway(hosts.spec("alpha"), CONFIG)
    try:
        hello = gateway.connect()
        environment = Path(f"/proc/{hello.pid}/task/{hello.pid}/children").read_text().split()
        keys = [Path(f"/proc/{pid}/environ").read_bytes() for pid in environment]
        assert keys
        assert not any(b"sk-of-the-host" in text for text in keys), "the fork server inherits no key of the host"
    finally:
        gateway.cut()
    assert hello.fingerprint.target == "cpu"
    assert hello.device == "cpu"


@needs_sshd
@pytest.mark.parametrize(("found", "text"), [("0.0.1", "found 0.0.1"), (None, "found none")])
def test_a_host_without_this_version_is_refused(
    hosts: sshd.Hosts, tmp_path: Path, found: str | None, text: str
) -> None:
    # A python that knows no installed package, and finds the other version in a folder of its own.
    if found is not None:
        (tmp_path / "pytest_avo").mkdir()
        (tmp_path / "pytest_avo" / "__init__.py").write_text(f'__version__ = "{found}"\n')
    python = f"env PYTHONPATH={tmp_path} {sys.executable} -S"
    gateway = Gateway(hosts.spec("alpha", python=python), CONFIG)
    with pytest.raises(WorkerRefused, match=rf"expected pytest-avo {__version__} in \S+, {text}: install it there"):
        gateway.connect()
    gateway.cut()


@needs_sshd
@pytest.mark.parametrize(
    ("name", "python", "text"),
    [
        ("alpha", "/no/such/python", "the host has no such python, name one as in --tx ssh=HOST//python=PATH"),
        ("nowhere.invalid", "python", "ssh cannot reach it"),
    ],
)
def test_what_cannot_be_reached_says_why(hosts: sshd.Hosts, name: str, python: str, text: str) -> None:
    gateway = Gateway(hosts.spec(name, python=python), CONFIG)
    with pytest.raises(ConnectionError, match=text):
        gateway.connect()
    gateway.cut()
