"""Kills an evolution's processes at random moments, resumes it, and checks that nothing is lost, torn or left over.

    python benchmarks/crash.py [--kills 100] [--seconds 420] [--seed N]

A small kernel is evolved by the embedded operator in a project of its own, evolution after evolution. Meanwhile SIGKILL
goes to the controller, its worker, the fork server, or a kernel's process: once to each, then to one by lot. An
evolution that ends early is resumed. Whenever a controller is gone, however it went, this must hold:

  - every process that was seen below it is gone within ten seconds;
  - every evaluation, attempt and outcome that was in the lineage is in it still, byte for byte;
  - no shape of an attempt was evaluated twice for one purpose, no attempt settled twice, no generation tried twice;
  - the kernel's file is whole: the source of the incumbent, or of the attempt that was being promoted.

An evolution that is complete has every generation once, each with its outcome, and the incumbent in the kernel's file.
Exit status 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pytest_avo.core.kernel import read_kernel
from pytest_avo.evaluation.linux import processes
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View, latest_run

SUITE = """
[[shape]]
batch = 1
heads_q = 2
heads_kv = 2
seqlen_q = 48
seqlen_kv = 48
head_dim = 32
causal = true
dtype = "f32"
"""
KERNEL = '''"""Attention that is done REPEAT times over: what fewer times gain is beyond any noise."""

import torch

AVO = {"target": "cpu", "shapes": ["tiny"]}
REPEAT = 12
TUNABLES = {"REPEAT": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32], "FLAG": [False, True]}
FLAG = False


def attention(q, k, v, *, causal, scale):
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    for _ in range(REPEAT):
        scores = (q.float() * scale) @ k.float().transpose(-1, -2)
        if causal:
            rows, keys = scores.shape[-2:]
            scores = scores.masked_fill(~torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows), float("-inf"))
        out = (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)
    return out
'''
GENERATIONS = 6
SHARES = {"kernel": 9, "fork server": 4, "worker": 4, "controller": 3}
"""How often each is drawn, once every one of them was."""
GONE_WITHIN_S = 10.0
ENDINGS = {0: "complete", 1: "ended with a seed that was killed", 3: "the machine failed", -signal.SIGKILL: "killed"}
"""Exit statuses that an evolution may have."""
WORKERS_FIRST_WORDS = re.compile(
    r'Traceback \(most recent call last\):\n(  File "<string>", line \d+, in \S+\n)+BrokenPipeError: .*\n'
)
"""What execnet's first lines in a new worker say when the controller is gone before they have greeted it."""


class Project:
    """A project with one kernel, its lineage, and what was seen of both so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = folder / "kernels" / "slow.py"
        self.lineage = folder / ".avo" / FILE
        self.faults: list[str] = []
        self._rows: dict[str, set[tuple[object, ...]]] = {}
        for path, text in ((folder / "shapes" / "tiny.toml", SUITE), (self.kernel, KERNEL)):
            path.parent.mkdir(parents=True)
            path.write_text(text)
        (folder / "pytest.ini").write_text("[pytest]\n")

    def start(self, *, resume: bool) -> subprocess.Popen[str]:
        """An evolution in a session of its own."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--avo-evolve", "kernels/slow.py"]
        command += ["--avo-operator", "tuner", "--avo-peers", "none", "--avo-max-rounds", "3"]
        command += ["--generations", str(GENERATIONS), *(["--avo-resume"] if resume else [])]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")},
            stdout=(self.folder / "output.txt").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def check(self) -> None:
        """Compare the lineage with what it held before, and the kernel's file with the lineage."""
        if not self.lineage.is_file():
            return
        with sqlite3.connect(self.lineage) as connection:
            [[whole]] = connection.execute("PRAGMA integrity_check").fetchall()
            self._expect(whole == "ok", f"the lineage is damaged: {whole}")
            for table in ("run", "attempt", "evaluation", "outcome"):
                rows = set(connection.execute(f"SELECT * FROM {table}").fetchall())
                lost = self._rows.get(table, set()) - rows
                self._expect(not lost, f"{len(lost)} rows of {table} were lost or changed: {sorted(lost)[:1]}")
                self._rows[table] = rows
            for what, query in {
                "evaluated twice": "SELECT attempt, purpose, shape FROM evaluation WHERE purpose != 'draft'",
                "settled twice": "SELECT attempt FROM outcome",
                "tried twice": "SELECT run, generation, member FROM attempt",
            }.items():
                counts = Counter(connection.execute(query).fetchall())
                self._expect(all(n == 1 for n in counts.values()), f"{what}: {counts.most_common(1)}")
            known = {digest for (digest,) in connection.execute("SELECT digest FROM source")}
        kernel = read_kernel(self.kernel)
        self._expect(not kernel.fault and kernel.digest in known, f"the kernel's file is torn: {kernel.fault}")

    def check_complete(self) -> bool:
        """Whether an evolution that ended by itself tried every generation; what a complete one must look like."""
        run = latest_run(self.lineage, "kernels/slow.py")
        assert run is not None
        with View(self.lineage, run.id) as view:
            generations = [attempt.generation for attempt in view.attempts()]
            incumbent = view.incumbent()
            seed = view.outcome(view.attempts()[0].id)
            if len(generations) == 1 and seed is not None and seed.status != "seed":
                return False  # its process was killed while the seed was checked: nothing to evolve from
            self._expect(generations == list(range(GENERATIONS + 1)), f"generations {generations}")
            self._expect(len(view.outcomes()) == len(generations), "an attempt without an outcome")
            same = incumbent is not None and incumbent.digest == read_kernel(self.kernel).digest
            self._expect(same, "the kernel's file is not the incumbent")
            left = [path.name for path in self.kernel.parent.iterdir() if path != self.kernel]
            self._expect(not left, f"left beside the kernel: {left}")
        return True

    def evaluations(self) -> int:
        return len(self._rows.get("evaluation", ()))

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


def victims(controller: int) -> dict[str, list[int]]:
    """Processes of an evolution by what they are."""
    found: dict[str, list[int]] = {"controller": [controller], "worker": [], "fork server": [], "kernel": []}
    for process in processes.tree(controller)[1:]:
        try:
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"sys.stdin.readline" in command:
            found["worker"].append(process.pid)
        elif b"pytest_avo.evaluation.kernel_process.fork_server" in command:
            # What is forked from the fork server keeps its command line; the fork server alone leads to the worker.
            found["fork server" if process.parent in found["worker"] else "kernel"].append(process.pid)
    return found


def strike(controller: subprocess.Popen[str], kind: str, lot: random.Random, seen: dict[int, float]) -> bool:
    """Wait until there is a process of a kind, then for a moment, and kill one; False when the evolution ends first.

    seen: takes up all processes below the controller, with the time they began.
    """
    pause: float | None = None
    while controller.poll() is None:
        seen |= {x.pid: started(x.pid) for x in processes.tree(controller.pid)}
        found = victims(controller.pid)
        if found[kind] and (kind != "controller" or found["worker"] or lot.random() < 0.02):
            if pause is not None:
                seen |= {x.pid: started(x.pid) for x in processes.tree(controller.pid)}
                os.kill(lot.choice(found[kind]), signal.SIGKILL)
                return True
            pause = lot.uniform(0.0, 0.7)
            time.sleep(pause)
        time.sleep(0.02)
    return False


def kinds(lot: random.Random) -> Iterator[str]:
    """Whom to kill next: every kind in some order, then whichever is drawn."""
    yield from lot.sample(list(SHARES), k=len(SHARES))
    while True:
        yield lot.choices(list(SHARES), list(SHARES.values()))[0]


def haunt(project: Project, lot: random.Random, *, kills: int, deadline: float) -> tuple[Counter[str], Counter[str]]:
    """Start, kill and resume until there were enough kills and an evolution came to its end, or the time is up.

    Kills by kind, endings by word.
    """
    struck: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    resume, drawn = False, kinds(lot)
    kind = next(drawn)
    while time.monotonic() < deadline and (struck.total() < kills or resume or not endings["evolved to the end"]):
        process = project.start(resume=resume)
        seen: dict[int, float] = {}
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                if struck.total() < kills and strike(process, kind, lot, seen):
                    struck[kind] += 1
                    kind = next(drawn)
            if struck.total() >= kills:
                seen |= {x.pid: started(x.pid) for x in processes.tree(process.pid)}
                time.sleep(0.2)
        process.wait()
        leftovers = outliving(seen)
        if leftovers:
            project.faults.append(f"left over after {ENDINGS.get(process.returncode)}: {leftovers}")
        output = (project.folder / "output.txt").read_text(errors="replace")
        if process.returncode == -signal.SIGKILL:
            output = WORKERS_FIRST_WORDS.sub("", output)
        if process.returncode not in ENDINGS or "INTERNALERROR" in output or "Traceback" in output:
            project.faults.append(f"exit status {process.returncode}: {output[-2000:]}")
        endings[ENDINGS.get(process.returncode, "else")] += 1
        project.check()
        resume = project.lineage.is_file() and latest_run(project.lineage, "kernels/slow.py") is not None
        if process.returncode in (0, 1):
            evolved = project.check_complete()
            endings["evolved to the end"] += evolved
            if evolved != (process.returncode == 0):
                project.faults.append(f"exit status {process.returncode}: {output[-2000:]}")
            project.kernel.write_text(KERNEL)
            resume = False
    return struck, endings


def started(pid: int) -> float:
    """When a process began, in clock ticks: with its number, its identity."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return -1.0


def outliving(seen: dict[int, float]) -> list[int]:
    """Which of these processes are still there after a grace."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := [
        pid for pid, when in seen.items() if when >= 0 and started(pid) == when and processes.is_running(pid)
    ]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def main() -> int:
    """Print how often what was killed, how the evolutions ended, and what did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--seed", type=int, default=None, help="of the lots (default: drawn)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="avo-crash-") as folder:
        project = Project(Path(folder))
        begun = time.monotonic()
        struck, endings = haunt(
            project, random.Random(seed), kills=options.kills, deadline=begun + options.seconds
        )  # fmt: skip
        seconds = time.monotonic() - begun
    kinds = ", ".join(f"{struck[kind]} {kind}" for kind in SHARES)
    print(f"{struck.total()} kills ({kinds}) in {seconds:.0f} s, seed {seed}")
    print(f"runs: {', '.join(f'{count} {word}' for word, count in endings.items())}")
    print(f"{project.evaluations()} evaluations kept; {len(project.faults)} faults")
    for fault in project.faults:
        print(f"FAULT {fault}")
    return 1 if project.faults else 0


if __name__ == "__main__":
    sys.exit(main())
