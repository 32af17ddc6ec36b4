"""Servers of a spool: what they take, in which order, and what happens to what a dead one held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from random import Random

import msgspec
import pytest

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.notes import Ask, RequestClaim
from pytest_avo.evaluation.spool.server import Served
from tests import ROOT
from tests.evaluation.spool.desk import OTHER, PATIENCE_S, SHAPES, Clerk, asked, request, serve, server

Connect = Callable[..., SpoolClient]
HOUR = "3600"


def lines(clerk: Clerk) -> list[str]:
    return clerk.log.read_text().splitlines()


def start(folder: SpoolFolder, clerk: Clerk, *, each_s: float, off: str = "") -> subprocess.Popen[str]:
    """A server in a process of its own, whose clock may be off."""
    command = [sys.executable, "-m", "tests.evaluation.spool.desk", str(folder.path), str(clerk.log), str(each_s)]
    return subprocess.Popen(
        command + [off] * bool(off), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def claimed(folder: SpoolFolder, number: int = 1) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(folder.names("claims")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_empty_spool_learns_what_device_is_here(folder: SpoolFolder, clerk: Clerk) -> None:
    one = server(folder, clerk)
    one.introduce()
    assert one.serve().ended == "nothing is left"
    assert len(folder.names("devices")) == 1


def test_requests_beside_the_same_baseline_follow_each_other(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    client = connect()
    for number, baseline in enumerate(["a", "b", "a", "b"]):
        client.submit(request(str(number), baseline=baseline, shapes=SHAPES[:1]))
    serve(folder, clerk)
    assert [line.split()[0] for line in lines(clerk)] == ["0", "2", "1", "3"]


def test_another_kind_of_device_leaves_requests_alone(
    folder: SpoolFolder, connect: Connect, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    connect().submit(request())
    served = serve(folder, clerk, kind=OTHER)
    assert (served.requests, asked(folder)) == (0, 1)
    assert "is left alone: it is for another kind of device than NVIDIA H100" in capsys.readouterr().out


def test_it_ends_when_its_time_is_up_and_gives_back_what_it_holds(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request())
    clerk.each_s = 30.0
    served = serve(folder, clerk, for_s=0.3)
    assert (served.ended, served.left) == ("its time is up", 1)
    # At once, however long a lease is: the first one said that it ended.
    assert server(folder, Clerk(clerk.log), lease_s=1000.0).serve(for_s=PATIENCE_S).requests == 1
    assert not wait(futures.values(), timeout=PATIENCE_S).not_done


def test_it_begins_nothing_that_takes_longer_than_the_time_left(
    folder: SpoolFolder, connect: Connect, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    client.submit(request("one"))
    client.submit(request("two"))
    now_s, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + now_s[0])

    class Slow(Clerk):
        """A request takes half an hour of a clock that is set while its server waits."""

        began, ends = threading.Event(), threading.Event()

        def _work(self, request: EvaluationRequest, futures: Mapping[str, Future[Evaluation]]) -> None:
            self.began.set()
            assert self.ends.wait(PATIENCE_S)
            super()._work(request, futures)

        def doing(self) -> str:
            if self.began.is_set() and not self.ends.is_set():
                now_s[0] += 1800
                self.ends.set()
            return super().doing()

    served = serve(folder, Slow(clerk.log), for_s=3000.0)
    assert (served.requests, served.ended) == (1, "the time left is shorter than a request took")
    assert len(lines(clerk)) == 3


def test_a_machine_that_breaks_answers_nothing_and_leaves_it_to_others(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request())
    clerk.broken = "no worker is left"
    served = serve(folder, clerk)
    assert served.broken
    assert not folder.names("answers")
    assert serve(folder, Clerk(clerk.log)).requests == 1
    assert not wait(futures.values(), timeout=PATIENCE_S).not_done


def test_two_servers_share_a_spool_and_evaluate_nothing_twice(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    client = connect()
    futures = [future for n in range(20) for future in client.submit(request(str(n), shapes=SHAPES[:1])).values()]
    both = threading.Barrier(2)

    class Sociable(Clerk):
        """Begins when the other server has something to do too."""

        def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
            if not self.has_met:
                self.has_met = True
                both.wait(PATIENCE_S)
            return super().submit(request)

        has_met = False

    found: list[Served] = []
    threads = [threading.Thread(target=lambda: found.append(serve(folder, Sociable(clerk.log)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wait(futures, timeout=PATIENCE_S).not_done
    assert len(lines(clerk)) == 20
    assert sum(served.requests for served in found) == 20
    assert all(served.requests for served in found)


def test_what_a_killed_server_of_this_machine_held_is_taken_over_at_once(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request())
    one = start(folder, clerk, each_s=60.0)
    claimed(folder)
    one.kill()
    one.communicate()
    assert server(folder, clerk, lease_s=1000.0).serve(for_s=PATIENCE_S).requests == 1
    assert not wait(futures.values(), timeout=PATIENCE_S).not_done


def test_what_a_dead_server_of_another_machine_held_is_taken_over_when_its_beat_stands_still(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    connect().submit(request())
    [name] = folder.names("requests")
    folder.publish("servers", "elsewhere", b"000000000007 serving\nanother boot pid:[4026531836] 1 1\n")
    folder.publish("claims", f"{name}.1", RequestClaim("elsewhere"))
    future = time.time() + 3600
    os.utime(folder.path / "servers" / "elsewhere", (future, future))  # by a clock an hour ahead
    begun = time.monotonic()
    assert server(folder, clerk, lease_s=0.4).serve(for_s=PATIENCE_S).requests == 1
    assert time.monotonic() - begun >= 0.4


def test_a_live_server_keeps_its_claim_whatever_the_clocks_say(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request())
    ahead = start(folder, clerk, each_s=0.5, off=HOUR)
    claimed(folder)
    second = start(folder, clerk, each_s=0.0, off=f"-{HOUR}")
    assert "0 requests" in second.communicate(timeout=PATIENCE_S)[0]
    assert "1 requests, 3 evaluations" in ahead.communicate(timeout=PATIENCE_S)[0]
    assert not wait(futures.values(), timeout=PATIENCE_S).not_done
    assert len(lines(clerk)) == 3


def test_a_request_that_kills_server_after_server_is_given_up(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    futures = connect().submit(request())
    [name] = folder.names("requests")
    for number in range(1, 9):
        folder.publish("servers", f"dead{number}", b"000000000007 serving\n")
        folder.publish("claims", f"{name}.{number}", RequestClaim(f"dead{number}"))
    server(folder, clerk, lease_s=0.4).serve(for_s=PATIENCE_S)
    wait(futures.values(), timeout=PATIENCE_S)
    assert "8 servers were lost while they evaluated it" in str(futures[SHAPES[0].id].exception())
    assert lines(clerk) == []


def test_servers_that_are_killed_at_random_lose_nothing_and_do_nothing_twice(
    folder: SpoolFolder, connect: Connect, clerk: Clerk
) -> None:
    client, lot = connect(), Random(7)
    futures = [future for n in range(6) for future in client.submit(request(str(n))).values()]
    kills = 0
    while asked(folder):
        before, one = len(lines(clerk)), start(folder, clerk, each_s=0.05)
        deadline = time.monotonic() + PATIENCE_S
        while len(lines(clerk)) == before and one.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        try:
            one.wait(timeout=lot.uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            one.send_signal(signal.SIGKILL)
            kills += 1
        one.communicate()
    assert kills
    assert not wait(futures, timeout=PATIENCE_S).not_done
    # What a killed server had evaluated and not yet written is the most that may be done once more.
    again = Counter(line.rpartition(" ")[0] for line in lines(clerk))
    assert sum(count - 1 for count in again.values()) <= kills


def test_a_full_disk_is_waited_out_by_both_sides(tmp_path: Path, clerk: Clerk) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        folder = SpoolFolder(small / "spool")
        folder.make()
        from tests.evaluation.spool.desk import KIND

        client = SpoolClient(folder, KIND, lease_s=0.4)
        ballast = small / "ballast"
        _fill(ballast)
        futures = client.submit(request())
        _until(lambda: any("the disk is full" in line for line in client.news()))
        assert asked(folder) == 0
        ballast.unlink()
        _until(lambda: asked(folder) == 1)
        _until(lambda: any("can be written again" in line for line in client.news()))
        clerk.each_s = 0.3
        serving = threading.Thread(target=serve, args=(folder, clerk))
        serving.start()
        claimed(folder)
        _fill(ballast)
        time.sleep(1.2)
        assert len(folder.names("answers")) < 3
        ballast.unlink()
        assert not wait(futures.values(), timeout=PATIENCE_S).not_done
        serving.join()
        client.close()
        assert len(lines(clerk)) == 3
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            return


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_of_somebody_else_stops_nobody(folder: SpoolFolder, connect: Connect, clerk: Clerk) -> None:
    connect().submit(msgspec.structs.replace(request(), subject=Subject("mine.py", "one")))
    (folder.path / "requests" / "notes.txt").write_text("buy milk")
    (folder.path / "claims" / "notes.txt").write_text("")
    (folder.path / "answers" / ".nfs0001").write_text("")
    assert serve(folder, clerk).requests == 1


def test_what_no_run_wrote_is_left_alone_and_nothing_it_names_removed(
    folder: SpoolFolder, connect: Connect, clerk: Clerk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connect().submit(request())
    (name,) = folder.names("requests")
    ask = folder.read("requests", name, Ask)
    assert ask is not None
    mine = tmp_path / "mine"
    mine.touch()
    folder.publish("requests", "copied", ask)
    folder.publish("requests", "forged", msgspec.structs.replace(ask, id=str(mine), tickets={}))
    folder.publish("requests", "led-out", msgspec.structs.replace(ask, id="led-out", tickets={"x": "../../mine"}))
    folder.publish("requests", "nested", b'{"x":' + b"[" * 100_000)
    (folder.path / "requests" / "folder").mkdir()
    served = serve(folder, clerk)
    assert (served.requests, served.ended) == (1, "nothing is left")
    assert capsys.readouterr().out.count("is left alone: it is none that a run wrote") == 3
    assert mine.exists()
