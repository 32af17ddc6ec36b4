"""A small project with kernels, for pytest runs inside tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from _pytest.pytester import SysModulesSnapshot

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.evaluation.pool.pool import Pool
from tests import ROOT
from tests.plugin import warm_pool
from tests.plugin.scripted_pool import ScriptedPool  # at once: numpy cannot be imported twice

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

[[shape]]
batch = 1
heads_q = 4
heads_kv = 2
seqlen_q = 1
seqlen_kv = 96
head_dim = 32
causal = false
dtype = "f32"
"""
SHAPES = ("b1-h2-q48-k48-d32-causal-f32", "b1-h4kv2-q1-k96-d32-full-f32")

ATTENTION = """
import torch


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() * scale) @ k.float().transpose(-1, -2)
    if causal:
        rows, keys = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows), float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)
"""
GOOD = f'"""Right."""\n\nAVO = {{"target": "cpu", "shapes": ["tiny"]}}\n{ATTENTION}'
WRONG = GOOD.replace("* scale", "* scale * 1.01").replace("Right", "Wrong")
# What it does takes REPEAT times as long as it need, so that a variant's gain is certain on any machine; it waits, so
# that tests which run at the same time disturb each other little.
SLOW = (
    GOOD.replace("Right", "Slow")
    + """
import time

REPEAT = 40
TUNABLES = {"REPEAT": [1, 39, 40, 80, 400]}
_once = attention


def attention(q, k, v, *, causal, scale):
    time.sleep(REPEAT * 1e-4)
    return _once(q, k, v, causal=causal, scale=scale)
"""
)
GENTLE = SLOW.replace("[1, 39,", "[1, 10, 39,")
"""The same with a variant that is four times as fast: how long a round takes follows from what is fastest, for all."""
SCRIPTED = '''
"""An operator that proposes what script.txt says, a line a generation: a value of REPEAT, or a word."""

import pathlib
import time

from pytest_avo.operators.operator import Proposal


class Scripted:
    name = "scripted"

    def describe(self):
        return "scripted"

    def propose(self, task):
        lines = pathlib.Path("script.txt").read_text().split()
        if task.generation > len(lines):
            return None
        word = lines[task.generation - 1]
        if word == "sleep":
            pathlib.Path("asleep").touch()
            time.sleep(600)
        if word == "raise":
            raise RuntimeError("the operator is broken")
        if word == "syntax":
            return Proposal("def attention(:", "a syntax error")
        if word == "wrong":
            return Proposal(task.kernel.source.replace("* scale", "* scale * 0"), "zeros are fast", {"geomean": 9.0})
        if word == "drafts":
            results = task.evaluate(task.kernel.source, task.shapes[:1], timed=False)
            (task.folder / "drafts.txt").write_text(" ".join(r.verdict.kind for r in results.values()))
            return Proposal(task.kernel.source, "the same again")
        source = task.kernel.source.replace("REPEAT = 40", f"REPEAT = {word}")
        return Proposal(source, f"REPEAT {word}", {"geomean": 2.0}, lesson="less is more")
'''


PLUGINS = ("-p", "no:cacheprovider")
"""What runs inside tests load, or not, beside what `quick` says."""


SCRIPTED_PLUGINS = (*PLUGINS, "-p", "tests.plugin.scripted_pool")
"""The same where evaluations are scripted."""


WARM_PLUGINS = (*PLUGINS, "-p", "tests.plugin.warm_pool")
"""The same where a worker evaluates that is there already."""


METERED_PLUGINS = (*PLUGINS, "-p", "tests.plugin.metered_pool")
"""The same with that worker's checks, and times that kernels' sources say."""


KEY = "key-of-the-test-0123456789"
"""A secret of the user's, in the environment of what evaluates kernels."""


def quick(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which pytest loads this plugin and xdist alone.

    To import all else that the tests need takes longer than most runs inside them.
    """
    return {**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p avo -p xdist"}


def quick_and_scripted(environment: Mapping[str, str]) -> dict[str, str]:
    """The same with scripted evaluations, for commands that are run as they are written somewhere."""
    found = quick(environment)
    plugins = f"{found['PYTEST_ADDOPTS']} -p tests.plugin.scripted_pool"
    paths = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    return {**found, "PYTEST_ADDOPTS": plugins, "PYTHONPATH": paths}


@dataclass
class Project:
    """A project folder with a suite `tiny` and kernels, and ways to run pytest in it."""

    pytester: pytest.Pytester
    plugins: tuple[str, ...] = PLUGINS
    """What runs load, as arguments."""
    here: bool = False
    """Whether runs are in this process where they need not start workers: to import everything takes longer than most.

    `start` has a process of its own always.
    """

    @property
    def path(self) -> Path:
        return self.pytester.path

    def kernel(self, name: str, source: str) -> Path:
        path = self.path / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    def script(self, *words: str) -> None:
        """What the scripted operator proposes, generation by generation."""
        (self.path / "script.txt").write_text("\n".join(words))
        (self.path / "scripted.py").write_text(SCRIPTED)

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, as a user does, or in this one."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in quick({}).items():
                patch.setenv(name, value)
            if self.here and ("-n" not in arguments or "--avo-evolve" in arguments):  # then xdist starts no workers
                # pytest says of plugins that are imported already that it cannot rewrite them.
                patch.setenv("PYTEST_ADDOPTS", "-W ignore::pytest.PytestAssertRewriteWarning", prepend=" ")
                return self._run_here(*arguments)
            return self.pytester.runpytest_subprocess(*self.plugins, *arguments, timeout=1200)

    def _run_here(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in this process; unlike pytester it keeps what is imported, but for the project's own modules."""
        out, err, start, path = io.StringIO(), io.StringIO(), time.monotonic(), list(sys.path)
        sys.path.insert(0, str(self.path))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                ret = pytest.main([*self.plugins, *arguments])
        finally:
            sys.path[:] = path
            self.forget()
        outlines, errlines = out.getvalue().splitlines(), err.getvalue().splitlines()
        return pytest.RunResult(ret, outlines, errlines, time.monotonic() - start)

    def forget(self) -> None:
        """Forget the project's own modules, as if they had not been imported."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.path)):
                del sys.modules[name]

    def refuses(self, message: str, *arguments: str) -> None:
        """A run begins with this usage error (a pattern): of its options, its files or its paths; in this process."""

        def begin() -> None:
            config = self.pytester.parseconfigure(*arguments)
            config.hook.pytest_collection(session=pytest.Session.from_config(config))

        with pytest.raises(pytest.UsageError) as refused:
            begin()
        assert fnmatchcase(str(refused.value), message), f"{refused.value} is not {message}"

    def evolve(self, *arguments: str) -> pytest.RunResult:
        """An evolution of kernels/slow.py by the scripted operator."""
        return self.run(*self.evolve_arguments(*arguments))

    def evolve_arguments(self, *arguments: str) -> list[str]:
        operator = ["--avo-operator", "scripted:Scripted"]
        return [
            "--avo-evolve",
            "kernels/slow.py",
            *operator,
            "--avo-max-rounds",
            "6",
            "--avo-peers",
            "none",
            *arguments,
        ]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The same without waiting, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *self.plugins, *arguments],
            cwd=self.path,
            env=quick(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def commit(self) -> str:
        """Commit all files of the project to git; the branch is `main`."""
        if not (self.path / ".git").exists():
            self.git("init", "--quiet", "--initial-branch", "main")
            (self.path / ".git" / "info" / "exclude").write_text("cache/\n.avo/\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a commit")
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", *arguments]
        return subprocess.run(command, cwd=self.path, check=True, capture_output=True, text=True).stdout.strip()

    def compare(self, *arguments: str) -> pytest.RunResult:
        """A bench beside the kernels of `main`, without peers."""
        return self.run("--avo-bench", "--avo-compare", "git:main", "--avo-peers", "none", *arguments)

    def json(self, name: str = "out.json") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_text())
        return content


@pytest.fixture(scope="session")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the rates of this machine are kept from one test to the next: to measure them takes a second."""
    return tmp_path_factory.mktemp("rates")


@pytest.fixture
def own_cache(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rates: Path) -> Iterator[None]:
    """A cache of its own, so that runs of other tests never hold the lease that a test waits for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    cache = pytester.path / "cache" / "pytest-avo"
    cache.mkdir(parents=True)
    for known in rates.glob("rates-*.json"):
        shutil.copy(known, cache)
    yield
    for known in cache.glob("rates-*.json"):
        shutil.copy(known, rates)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Iterator[Project]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("COLUMNS", "200")  # what is cut to a narrow terminal is tested with the tables
    (pytester.path / "shapes").mkdir()
    (pytester.path / "shapes" / "tiny.toml").write_text(SUITE)
    pytester.makeini("[pytest]\n")
    made = Project(pytester)
    made.kernel("slow.py", SLOW)
    yield made
    made.forget()
    # Nothing else is forgotten: to import it again takes longer than most runs, and a thread that still waits for a
    # model would have its client's modules change under it.
    pytester._sys_modules_snapshot = SysModulesSnapshot()


@pytest.fixture
def scripted(project: Project) -> Project:
    """Evaluations in the project's runs are scripted: for tests of what becomes of them."""
    project.plugins, project.here = SCRIPTED_PLUGINS, True
    return project


@pytest.fixture
def lost(scripted: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same, but the machine fails whatever it is asked."""

    def fail(pool: ScriptedPool, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        futures: dict[str, Future[Evaluation]] = {shape.id: Future() for shape in request.shapes}
        for future in futures.values():
            future.set_exception(EvaluatorError("no worker is left: gw0 (popen)"))
        return futures

    monkeypatch.setattr(ScriptedPool, "submit", fail)
    return scripted


@pytest.fixture
def here(project: Project) -> Project:
    """The project's runs are in this process: for those that evaluate nothing."""
    project.here = True
    return project


@pytest.fixture(scope="session")
def warm_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A pool of one worker that is there already, started as a user's whose key is in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OPENAI_API_KEY", KEY)
        pool = warm_pool.WarmPool.kept = warm_pool.started()
    yield pool
    pool.close()


@pytest.fixture
def warm(project: Project, warm_worker: Pool) -> Project:
    """Evaluations in the project's runs are real, by a worker that is there already."""
    project.plugins, project.here = WARM_PLUGINS, True
    return project


@pytest.fixture
def metered(warm: Project) -> Project:
    """The same, but what rounds took is what kernels' sources say: verdicts are those of an idle machine."""
    warm.plugins = METERED_PLUGINS
    return warm


def kill_session(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """A signal to the leader of a session alone, as a terminal or a batch system sends it."""
    os.kill(process.pid, number)


def descendants(folder: Path) -> list[int]:
    """Processes that belong to runs in `folder`: their cache variable is inherited by all of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "environ").read_bytes() + os.fsencode(os.readlink(entry / "cwd")):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]
