"""--avo-population and --avo-islands: several attempts a generation, each with a parent of its own."""

from __future__ import annotations

import random
import signal
import sqlite3
import time

import pytest

from pytest_avo.core.kernel import read_kernel
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.records import Attempt, AttemptOutcome
from pytest_avo.lineage.view import View
from tests.plugin.conftest import SLOW, Project
from tests.plugin.scripted_pool import EACH_S

pytestmark = pytest.mark.usefixtures("scripted")

KERNEL = SLOW.replace("REPEAT = 40", "REPEAT = 100").replace("[1, 39, 40, 80, 400]", "[1, 12, 36, 100, 200]")
TEAM = '''
"""Proposes what team.txt says: a line a generation, a word a member, a value of REPEAT or "wrong".

"then-12" is 12, but not before the first member's proposal is in the lineage: else either may be heard first.
"""

import pathlib
import re
import threading
import time

from pytest_avo.operators.operator import Proposal

MEMBERS = 3
together = threading.Barrier(MEMBERS)


class Team:
    name = "team"

    def describe(self):
        return "team"

    def propose(self, task):
        word = pathlib.Path("team.txt").read_text().splitlines()[task.generation - 1].split()[task.member]
        if word == "meet":
            together.wait(timeout=180)
            word = "200"
        if word.startswith("then-"):
            word = word.removeprefix("then-")
            while (task.generation, 0) not in {(x.generation, x.member) for x in task.view.attempts()}:
                time.sleep(0.02)
        if word == "none":
            return None
        if word == "wrong":
            return Proposal(task.kernel.source.replace("* scale", f"* scale * {task.member}"), "wrong")
        return Proposal(re.sub("REPEAT = [0-9]+", f"REPEAT = {word}", task.kernel.source, count=1), f"REPEAT {word}")
'''


def arguments(project: Project, *generations: str) -> list[str]:
    """An evolution by a team whose members propose these words."""
    project.kernel("slow.py", KERNEL)
    (project.path / "team.py").write_text(TEAM)
    (project.path / "team.txt").write_text("\n".join(generations))
    count = ["--generations", str(len(generations)), "--avo-population", str(len(generations[0].split()))]
    asked = ["--avo-evolve", "kernels/slow.py", "--avo-operator", "team:Team", "--avo-max-rounds", "6"]
    # What decides is the estimate, not its interval: these tests are about parents, and the machine may be busy.
    return [*asked, "--avo-peers", "none", "--avo-accept", "match", *count]


def lineage(project: Project) -> dict[str, tuple[Attempt, AttemptOutcome]]:
    with View(project.path / ".avo" / FILE, 1) as view:
        outcomes = view.outcomes()
        return {f"{x.generation}.{x.member}": (x, outcomes[x.id]) for x in view.attempts() if x.id in outcomes}


def test_every_member_is_an_attempt_and_the_best_one_lands(project: Project) -> None:
    result = project.run(*arguments(project, "200 wrong 36", "12 then-12 1"), "-v")
    assert result.ret == 0
    found = lineage(project)
    assert set(found) == {"0.0", "1.0", "1.1", "1.2", "2.0", "2.1", "2.2"}
    statuses = {name: outcome.status for name, (_, outcome) in found.items()}
    assert statuses["1.1"] == "incorrect"
    assert statuses["1.2"] == statuses["2.2"] == "promoted"
    # Two members beat the same parent: where one outdoes the other beyond doubt it need not be confirmed too.
    assert statuses["2.0"] in ("slower", "promoted", "kept")
    assert statuses["2.1"] == "duplicate"
    parents = {name: attempt.parent for name, (attempt, _) in found.items()}
    assert parents["1.0"] == parents["1.1"] == parents["1.2"] == found["0.0"][0].id
    assert parents["2.0"] == parents["2.2"] == found["1.2"][0].id
    assert "REPEAT = 1\n" in (project.path / "kernels" / "slow.py").read_text()
    result.stdout.fnmatch_lines(
        ["*::gen0001m0-b1-*", "generation 1.1: incorrect*", "generation 2.1: duplicate*", "generation 2.2: promoted*"]
    )
    result.stdout.fnmatch_lines(["*kernels/slow.py: 6 attempts * [23] commits *"])


def test_members_are_asked_at_the_same_time(project: Project) -> None:
    result = project.run(*arguments(project, "meet meet meet"), "-n", "2")
    assert result.ret == 0
    assert {outcome.status for _, outcome in lineage(project).values()} >= {"duplicate"}


def test_the_embedded_operator_proposes_different_candidates(project: Project) -> None:
    project.kernel("slow.py", KERNEL)
    asked = ["--avo-evolve", "kernels/slow.py", "--avo-max-rounds", "3", "--avo-peers", "none", "--avo-seed", "1"]
    result = project.run(*asked, "--generations", "1", "--avo-population", "4")
    assert result.ret == 0
    found = lineage(project)
    assert len({attempt.digest for attempt, _ in found.values()}) == 5, "the seed and all other values of REPEAT"


def test_islands_keep_to_themselves_and_the_best_of_all_lands(project: Project) -> None:
    result = project.run(*arguments(project, "36 wrong", "wrong 1", "12 none"), "--avo-islands", "2")
    assert result.ret == 0
    found = lineage(project)
    seed, first, second, third = (found[name] for name in ("0.0", "1.0", "2.1", "3.0"))
    assert [attempt.island for attempt, _ in (first, second, third)] == [0, 1, 0]
    assert first[1].status == "promoted"
    assert second[0].parent == seed[0].id, "its island knows nothing of the other's kernel"
    assert (second[1].status, second[1].over) == ("promoted", first[0].id)
    assert third[0].parent == first[0].id
    assert third[1].status == "kept", "faster than its parent, slower than what is in the file"
    assert "REPEAT = 1\n" in (project.path / "kernels" / "slow.py").read_text()
    result.stdout.fnmatch_lines(["generation 3: team has nothing left to try", "generation 3.0: kept*the best is *"])


def test_killed_at_random_moments_it_loses_and_repeats_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EACH_S, "0.05")
    asked = [*arguments(project, "36 wrong 200", "12 1 36", "200 1 12"), "--avo-islands", "2", "-n", "2"]
    path, kernel = project.path / ".avo" / FILE, project.path / "kernels" / "slow.py"
    generator = random.Random(11)
    resume: list[str] = []

    def evaluations() -> int:
        if not path.is_file():
            return 0
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM evaluation").fetchone()[0])
            except sqlite3.OperationalError:
                return 0

    for _ in range(3):
        before = evaluations()
        process = project.start(*asked, *resume)
        deadline = time.monotonic() + 600
        while evaluations() == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert read_kernel(kernel).fault == "", "the kernel file is never torn"
        resume = ["--avo-resume"]
    result = project.run(*asked, "--avo-resume")
    assert result.ret == 0, result.stdout.str()
    found = lineage(project)
    assert set(found) == {"0.0", *(f"{generation}.{member}" for generation in (1, 2, 3) for member in range(3))}
    with sqlite3.connect(path) as connection:
        [[attempts]] = connection.execute("SELECT count(*) FROM attempt")
        repeated = connection.execute("SELECT count(*) FROM evaluation GROUP BY attempt, purpose HAVING count(*) != 2")
        assert attempts == len(found)
        assert repeated.fetchall() == [], "every shape once per attempt and purpose"
    with View(path, 1) as view:
        incumbent = view.incumbent()
        assert incumbent is not None
        assert incumbent.digest == read_kernel(kernel).digest


def test_another_population_is_no_continuation(project: Project) -> None:
    asked = arguments(project, "wrong wrong")
    project.run(*asked)
    result = project.run(*asked, "--avo-population", "3", "--avo-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --avo-resume: run 1 has --avo-population=2, got 3"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--avo-population", "0"], "--avo-population: expected at least 1, got 0"),
        (
            ["--avo-population", "2", "--avo-islands", "3"],
            "--avo-islands: expected a number from 1 to the population, which is 2, got 3",
        ),
    ],
)
def test_sizes_that_make_no_sense(project: Project, options: list[str], text: str) -> None:
    project.refuses(text, "--avo-evolve", "kernels/slow.py", *options)
