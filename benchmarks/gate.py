"""How often the gate catches a slowdown, and how often it stops what did not change.

python benchmarks/gate.py [RUNS [PERCENT [LIMIT]]]        default: 10 runs, a kernel slowed by 8 percent, a limit of 3%

Every run is a pytest of its own in a new git repository: kernels/cpu/quickstart.py, which needs no compiler, is
committed as it is and, slowed or unchanged, gated against the commit on three shapes. A slowed kernel spins after each
call for PERCENT of the time that the call took, so it is slower by that much on every shape and on any machine. Both
cases go through the ways to report in turn; the exit status must not depend on them. Exit status 1 if a slowdown was
missed or an unchanged kernel stopped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KERNEL = Path(__file__).parent.parent / "kernels" / "cpu" / "quickstart.py"
REPORTING = (
    (),
    ("-q",),
    ("-v",),
    ("--no-summary",),
    ("-n", "2"),
    ("--junitxml=junit.xml",),
    ("-p", "no:terminal"),
)
SUITE = "".join(
    f"""
[[shape]]
batch = 1
heads_q = 8
heads_kv = {heads_kv}
seqlen_q = 512
seqlen_kv = 512
head_dim = {head_dim}
causal = {causal}
dtype = "{dtype}"
"""
    for heads_kv, head_dim, causal, dtype in ((8, 64, "true", "f32"), (2, 128, "true", "bf16"), (8, 64, "false", "f32"))
)
SPIN = """

import time as _time

_as_it_was = attention


def attention(q, k, v, *, causal, scale):
    started = _time.perf_counter()
    out = _as_it_was(q, k, v, causal=causal, scale=scale)
    ended = _time.perf_counter()
    while _time.perf_counter() < ended + SHARE * (ended - started):
        pass
    return out
"""


def project(folder: Path, *, percent: float) -> None:
    """A repository with the kernel committed, and slowed by `percent` since."""
    path = folder / "kernels" / KERNEL.name
    path.parent.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "shapes").mkdir()
    (folder / "shapes" / "gate.toml").write_text(SUITE)
    shutil.copy(KERNEL, path)
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "as it was"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    if percent:
        path.write_text(path.read_text() + SPIN.replace("SHARE", str(percent / 100)))


def gated(*, percent: float, limit: float, reporting: tuple[str, ...]) -> tuple[int, float, str]:
    """Exit status, seconds and the last lines of one run."""
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), percent=percent)
        # The file is named, or the unchanged one would not be measured.
        command = [sys.executable, "-m", "pytest", "--avo-bench", f"kernels/{KERNEL.name}", "-p", "no:cacheprovider"]
        command += ["--avo-compare", "git:HEAD", "--avo-compare-fail", f"{limit:g}%", "--avo-shapes", "gate"]
        command += ["--avo-peers", "none", *reporting]
        started = time.monotonic()
        ended = subprocess.run(command, cwd=name, capture_output=True, text=True)
        seconds = time.monotonic() - started
    said = [line for line in ended.stdout.splitlines() if " than git:HEAD" in line]
    return ended.returncode, seconds, "\n".join(f"      {line}" for line in said)


def main(runs: int, percent: float, limit: float) -> int:
    """Print a line per run and the totals."""
    wrong, longest = {"slowed": 0, "unchanged": 0}, 0.0
    for number in range(runs):
        reporting = REPORTING[number % len(REPORTING)]
        for case, slowdown, expected in (("slowed", percent, 1), ("unchanged", 0.0, 0)):
            status, seconds, said = gated(percent=slowdown, limit=limit, reporting=reporting)
            wrong[case] += status != expected
            longest = max(longest, seconds)
            print(f"{case:9}  exit {status}  {seconds:5.1f} s  {' '.join(reporting) or '(no option)'}", flush=True)
            if status != expected:
                print(said, flush=True)
    print(
        f"slowed by {percent:g}%, limit {limit:g}%: {runs - wrong['slowed']} of {runs} caught; "
        f"unchanged: {runs - wrong['unchanged']} of {runs} passed; longest run {longest:.0f} s"
    )
    return int(any(wrong.values()))


if __name__ == "__main__":
    defaults = (10.0, 8.0, 3.0)
    given = [float(argument) for argument in sys.argv[1:]]
    count, share, allowed = (*given, *defaults[len(given) :])
    sys.exit(main(int(count), share, allowed))
