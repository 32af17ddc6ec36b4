"""--tx and -n of pytest-xdist size the evaluators of an evolution; hosts come and go, the run goes on."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_avo.lineage.database import FILE
from tests import sshd
from tests.plugin.conftest import Project

pytest.importorskip("xdist")
needs_sshd = pytest.mark.skipif(sshd.MISSING, reason="needs sshd, ssh and, for root, /run/sshd")


@pytest.fixture
def hosts(project: Project) -> Iterator[sshd.Hosts]:
    environment = {"XDG_CACHE_HOME": str(project.path / "cache")}
    with sshd.hosts(project.path / "ssh", ["alpha", "beta"], environment=environment) as made:
        yield made


def evaluated(project: Project) -> int:
    """Shapes in the lineage."""
    path = project.path / ".avo" / FILE
    if not path.is_file():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM evaluation").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def until(condition: Callable[[], bool], limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.usefixtures("scripted")
def test_every_worker_stands_in_the_ledger(project: Project) -> None:
    project.script("wrong", "80")
    result = project.evolve("--generations", "2", "-n", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["worker * host * device * shapes answered * busy * of the run", "gw0 (popen) *", "gw1 (popen) *"]
    )


@pytest.mark.usefixtures("scripted")
def test_one_worker_needs_no_ledger(project: Project) -> None:
    project.script("wrong")
    result = project.evolve("--generations", "1")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("worker *")


@needs_sshd
def test_the_plug_of_a_host_is_pulled_and_the_run_goes_on(project: Project, hosts: sshd.Hosts) -> None:
    project.script("80", "wrong", "1")
    specs = [argument for name in ("alpha", "beta") for argument in ("--tx", hosts.spec(name))]
    process = project.start(*project.evolve_arguments("--generations", "3", *specs))
    until(lambda: evaluated(project) >= 2 or process.poll() is not None)
    hosts.pull_plug("alpha")
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    assert "generation 3: " in output, output
    assert "gw0 (ssh=alpha//" in output
    assert "is lost: ConnectionError: ssh cannot reach it" in output
    assert "gw1 (ssh=beta//" in output


@needs_sshd
def test_without_a_host_the_run_ends_resumable(project: Project, hosts: sshd.Hosts) -> None:
    project.script("80", "1")
    process = project.start(*project.evolve_arguments("--generations", "2", "--tx", hosts.spec("alpha")))
    until(lambda: evaluated(project) >= 2 or process.poll() is not None)
    hosts.pull_plug("alpha")
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == pytest.ExitCode.INTERNAL_ERROR, output
    assert "no worker is left: gw0 (ssh=alpha//" in output
    assert "resume with: pytest" in output
    resumed = project.evolve("--generations", "2", "--tx", hosts.spec("beta"), "--avo-resume")
    assert resumed.ret == 0
    resumed.stdout.fnmatch_lines(["resuming run 1: *", "generation 2: *"])


@needs_sshd
def test_what_the_hosts_have_counts_and_not_what_the_controller_has(project: Project, hosts: sshd.Hosts) -> None:
    project.script("80")
    one_core = hosts.spec("alpha", python=f"taskset -c {min(os.sched_getaffinity(0))} {sys.executable}")
    result = project.evolve("--generations", "1", "--tx", one_core, "--tx", hosts.spec("beta"))
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["avo: * (evolve; * x1; *", "*gw1 (ssh=beta*refused: its device is of another kind than the run's (units: *"]
    )


@pytest.mark.usefixtures("here")
def test_no_host_at_all_is_a_usage_error(project: Project) -> None:
    project.script("80")
    result = project.evolve("--generations", "1", "--tx", "socket=127.0.0.1:9")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --tx: no worker is left: gw0 (socket=127.0.0.1:9): lost: ConnectionRefusedError*"]
    )
