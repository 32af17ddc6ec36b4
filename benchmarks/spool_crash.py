"""Kills both sides of a spool at random moments and checks that nothing is lost, evaluated twice or left over.

    python benchmarks/spool_crash.py [--agent] [--kills 50] [--seconds 900] [--seed N]

A small kernel is evolved by the embedded operator by way of a spool that one server serves, or two at the same time.
SIGKILL goes to the run or to a server; a run that ends early is resumed, a server is started when requests wait. With
--agent a coding agent, which is a script, works in a folder instead, and SIGKILL goes to it and to its `avo` too. This
must hold, beside what crash.py checks of the lineage whenever a run is gone:

  - an answer, once written, stays as it is;
  - every answer has gone into the lineage, or into a winner's comparison with the seed, and none was asked for twice;
  - nothing is left in the spool of an evolution that is complete: no request, no claim;
  - every process that was seen below a killed one is gone within ten seconds.

Exit status 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import crash

from pytest_avo.evaluation.linux import processes
from pytest_avo.lineage.view import View, latest_run

GENERATIONS = 4
PAUSE_S = (0.2, 16.0)
"""Between one kill and the next: a server takes some seconds to start, a run too."""
EARLY = 0.1
"""Chance that a run is killed which has not asked anything yet."""
SHARES = {"run": 1, "server": 2, "agent": 2, "avo": 3}
"""How often each is drawn, of those that are there."""
AGENT = """
import re, subprocess, sys, time
from pathlib import Path

generation = int(re.search(r"Generation (\\d+)", Path("TASK.md").read_text())[1])
parent = Path("draft.py").read_text()
Path("draft.py").write_text(re.sub(r"REPEAT = .*", f"REPEAT = {12 - 2 * generation}", parent, count=1))
for command in (["eval"], ["submit", "-m", "the work is done fewer times", "--predict", "1.2"]):
    for _ in range(20):
        time.sleep(0.5)
        if subprocess.run(["avo", *command]).returncode == 0:
            break
"""
MACHINE_FAILED = 3
"""What a run ends with whose agent was killed before it did anything; it is resumed."""


class Spooled(crash.Project):
    """A project whose kernels are evaluated by way of a spool."""

    def __init__(self, folder: Path, *, has_agent: bool) -> None:
        super().__init__(folder)
        self.has_agent = has_agent
        (folder / "agent.py").write_text(AGENT)
        self.spool = folder / "spool"
        self._answers: dict[str, bytes] = {}
        self._compared = 0

    def start(self, *, resume: bool) -> subprocess.Popen[str]:
        """An evolution in a session of its own."""
        arguments = ["--avo-evolve", "kernels/slow.py", "--avo-operator", "tuner", "--avo-peers", "none"]
        if self.has_agent:
            arguments[3:4] = ["coding-agent", "--avo-agent", f"{sys.executable} {self.folder / 'agent.py'}"]
        arguments += ["--avo-max-rounds", "3", "--generations", str(GENERATIONS), "--tx", "spool=spool"]
        return self.launch("output.txt", *arguments, *(["--avo-resume"] if resume else []))

    def serve(self, number: int) -> subprocess.Popen[str]:
        return self.launch(f"server{number}.txt", "--avo-serve", "spool")

    def launch(self, output: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")},
            stdout=(self.folder / output).open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def waits(self) -> bool:
        """Whether somebody has asked something."""
        return any((self.spool / "requests").iterdir())

    def check_drafts(self) -> None:
        """No draft was evaluated twice on a shape."""
        with sqlite3.connect(self.lineage) as connection:
            query = "SELECT attempt, digest, shape FROM evaluation WHERE purpose = 'draft'"
            counts = Counter(connection.execute(query).fetchall())
        self._expect(all(n == 1 for n in counts.values()), f"drafts evaluated twice: {counts.most_common(1)}")

    def check_answers(self) -> None:
        """Compare the answers with what they were."""
        found = {path.name: path.read_bytes() for path in (self.spool / "answers").iterdir()}
        for name, content in self._answers.items():
            self._expect(found.get(name) == content, f"answer {name} was lost or changed")
        self._answers = found

    def check_settled(self) -> None:
        """What must hold of a spool whose run is complete."""
        for part in ("requests", "claims"):
            left = [path.name for path in (self.spool / part).iterdir()]
            self._expect(not left, f"left in {part}: {left}")
        run = latest_run(self.lineage, "kernels/slow.py")
        assert run is not None
        with View(self.lineage, run.id) as view:
            attempts = {attempt.id: attempt for attempt in view.attempts()}
            seed = min(attempts)
            promoted = [each.attempt for each in view.outcomes().values() if each.status == "promoted"]
            # What was confirmed beside the seed is not compared with it again.
            self._compared += sum(attempts[number].parent != seed for number in promoted)
        recorded = self.evaluations() + self._compared
        self._expect(len(self._answers) == recorded, f"{len(self._answers)} answers, {recorded} of them recorded")


class Haunted:
    """One project, its processes, and who was killed."""

    def __init__(self, project: Spooled, lot: random.Random) -> None:
        self.project = project
        self.lot = lot
        self.kills: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self._run: subprocess.Popen[str] | None = None
        self._servers: list[subprocess.Popen[str]] = []
        self._started = 0

    def haunt(self, *, kills: int, deadline: float) -> None:
        """Keep an evolution going, and kill, until there were enough kills and the last evolution is complete."""
        first = self.project.serve(0)
        first.wait()
        resume, strike_at = False, time.monotonic() + self.lot.uniform(*PAUSE_S)
        while time.monotonic() < deadline and (self.kills.total() < kills or resume):
            if self._run is None:
                self._run = self.project.start(resume=resume)
            self._keep_served()
            if time.monotonic() > strike_at and self.kills.total() < kills:
                self._strike()
                strike_at = time.monotonic() + self.lot.uniform(*PAUSE_S)
            self.project.check_answers()
            if self._run.poll() is not None:
                resume = self._bury_run(self._run)
                self._run = None
            time.sleep(0.1)
        for process in [*self._servers, *([self._run] if self._run else [])]:
            process.kill()
            process.wait()

    def _keep_served(self) -> None:
        for server in [server for server in self._servers if server.poll() is not None]:
            self._servers.remove(server)
            if server.returncode not in (0, -signal.SIGKILL):
                self.project.faults.append(f"a server ended with status {server.returncode}")
        if self.project.waits and len(self._servers) < self.lot.choice((1, 1, 1, 2)):
            self._started += 1
            self._servers.append(self.project.serve(self._started))

    def _strike(self) -> None:
        has_asked = self.project.waits or self.lot.random() < EARLY
        run = self._run
        there = {"run": [run.pid] if run and has_asked else [], "server": [each.pid for each in self._servers]}
        there |= {"agent": [], "avo": []} if run is None else outside(run.pid)
        kinds = [kind for kind in SHARES if there[kind]]
        if not kinds:
            return
        kind = self.lot.choices(kinds, [SHARES[kind] for kind in kinds])[0]
        victim = self.lot.choice(there[kind])
        seen = {x.pid: crash.started(x.pid) for x in processes.tree(victim)}
        if not seen:
            return
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return
        for process in [*self._servers, *([run] if run else [])]:
            if process.pid == victim:
                process.wait()
        self.kills[kind] += 1
        if left := crash.outliving(seen):
            self.project.faults.append(f"left over after a kill of a {kind}: {left}")

    def _bury_run(self, run: subprocess.Popen[str]) -> bool:
        """Check what a run left; whether it is to be resumed."""
        ending = crash.ENDINGS.get(run.returncode, "else")
        self.endings[ending] += 1
        output = (self.project.folder / "output.txt").read_text(errors="replace")
        expected = (0, 1, -signal.SIGKILL, *([MACHINE_FAILED] if self.project.has_agent else []))
        if run.returncode not in expected or "Traceback" in output:
            self.project.faults.append(f"exit status {run.returncode}: {output[-2000:]}")
        self.project.check()
        if self.project.has_agent and self.project.lineage.is_file():
            self.project.check_drafts()
        lineage = self.project.lineage
        if run.returncode not in (0, 1):
            return lineage.is_file() and latest_run(lineage, "kernels/slow.py") is not None
        crash.GENERATIONS = GENERATIONS
        self.project.check_complete()
        deadline = time.monotonic() + crash.GONE_WITHIN_S  # a server is still putting away what it has answered
        while any((self.project.spool / "claims").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.project.check_answers()
        self.project.check_settled()
        self.project.kernel.write_text(crash.KERNEL)
        return False


def outside(run: int) -> dict[str, list[int]]:
    """The agent of a run, and the command `avo` where it has one under way."""
    found: dict[str, list[int]] = {"agent": [], "avo": []}
    for process in processes.tree(run)[1:]:
        try:
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"agent.py") for word in command):
            found["agent"].append(process.pid)
        elif any(word.endswith(b"/avo") or b"pytest_avo.command" in word for word in command):
            found["avo"].append(process.pid)
    return found


def main() -> int:
    """Print how often what was killed, how the runs ended, and what did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", action="store_true", help="a coding agent in a folder evolves")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=None, help="of the lots (default: drawn)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="avo-spool-crash-") as folder:
        begun = time.monotonic()
        haunted = Haunted(Spooled(Path(folder), has_agent=options.agent), random.Random(seed))
        haunted.haunt(kills=options.kills, deadline=begun + options.seconds)
        seconds = time.monotonic() - begun
        answers = len(list((haunted.project.spool / "answers").iterdir()))
    kinds = ", ".join(f"{haunted.kills[kind]} {kind}" for kind in SHARES)
    print(f"{haunted.kills.total()} kills ({kinds}) in {seconds:.0f} s, seed {seed}")
    print(f"runs: {', '.join(f'{count} {word}' for word, count in haunted.endings.items())}")
    print(f"{answers} answers, {haunted.project.evaluations()} evaluations; {len(haunted.project.faults)} faults")
    for fault in haunted.project.faults:
        print(f"FAULT {fault}")
    return 1 if haunted.project.faults else 0


if __name__ == "__main__":
    sys.exit(main())
