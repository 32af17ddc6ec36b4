"""--avo-evolve: generations as items, promotion, the lineage."""

from __future__ import annotations

import subprocess

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import read_kernel
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View, latest_run
from pytest_avo.session.modes.evolve import _hooks
from tests.plugin.conftest import GOOD, SHAPES, SLOW, WRONG, Project


def open_view(project: Project) -> View:
    path = project.path / ".avo" / FILE
    run = latest_run(path, "kernels/slow.py")
    assert run is not None
    return View(path, run.id)


def statuses_of(project: Project) -> list[str]:
    """How the attempts of the latest run ended, the seed's first."""
    with open_view(project) as view:
        return [outcome.status for outcome in view.outcomes().values()]


@pytest.mark.parametrize("evaluator", ["warm", "scripted"])
def test_a_winner_lands_in_the_kernel_file_and_the_rest_is_rejected_with_reasons(
    project: Project, evaluator: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(evaluator)
    project.script("wrong", "syntax", "400", "1")
    is_certain = evaluator == "scripted"
    # What a busy machine hides, it hides no more where all takes twice, four times, ... as long.
    for longer in (1,) if is_certain else (1, 2, 4, 8, 16, 32):
        project.kernel("slow.py", SLOW.replace("REPEAT * 1e-4", f"REPEAT * {longer}e-4"))
        result = project.evolve("--generations", "4", "-v", "--avo-json", "out.json")
        if statuses_of(project)[-1] == "promoted":
            break
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "starting run ?: kernels/slow.py, 4 generations, seed *, operator scripted",
            f"kernels/slow.py::gen0000-{SHAPES[0]} CORRECT*",
            "noise floor *",
            "generation 1: zeros are fast",
            f"kernels/slow.py::gen0001-{SHAPES[0]} REJECTED*",
            "generation 1: incorrect*",
            "generation 2: crashed*syntax error*",
            # On a busy machine few rounds, or one of two shapes in them, may be called chance.
            f"generation 3: {'slower' if is_certain else ''}*",
            f"kernels/slow.py::gen0004-{SHAPES[0]} {'FASTER' if is_certain else ''}*",
            "generation 4: promoted*now in kernels/slow.py",
            f"*kernels/slow.py: *{'faster' if is_certain else ''}*",
            "*kernels/slow.py: 4 attempts * 1 commit * vs the seed",
        ]
    )
    promoted = (project.path / "kernels" / "slow.py").read_text()
    assert promoted.startswith("# avo: digest=")
    assert "REPEAT = 1\n" in promoted
    statuses = statuses_of(project)
    assert statuses[3] == "slower" or (not is_certain and statuses[3] == "ambiguous")
    assert statuses == ["seed", "incorrect", "crashed", statuses[3], "promoted"]
    with open_view(project) as view:
        best = view.incumbent()
        assert best is not None
        assert best.digest == read_kernel(project.path / "kernels" / "slow.py").digest
        assert view.outcomes()[best.id].lesson == "less is more"
        assert len(view.evaluations(best.id, "confirm")) == len(SHAPES)
    avo = project.json()["avo"]
    assert [attempt["status"] for attempt in avo["evolution"]["attempts"]] == statuses
    assert len(avo["results"]) == len(SHAPES), "of the best kernel"


@pytest.mark.usefixtures("scripted")
def test_a_rejected_variant_neither_fails_the_run_nor_stops_it(project: Project) -> None:
    project.script("wrong", "wrong", "7")
    result = project.evolve("--generations", "3", "-x", "--junitxml=junit.xml")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["generation 3: crashed*TUNABLES, key REPEAT: expected its present value 7 among*"])
    result.stdout.fnmatch_lines(["*rejected*"])
    assert "generation 2: duplicate" in result.stdout.str()
    assert 'failures="0"' in (project.path / "junit.xml").read_text()


@pytest.mark.usefixtures("scripted")
def test_a_seed_that_is_wrong_fails_the_run(project: Project) -> None:
    project.kernel("slow.py", WRONG)
    project.script("1")
    result = project.evolve("--generations", "1")
    assert result.ret == 1
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["the seed is no good, nothing to evolve from: incorrect: *"])


@pytest.mark.usefixtures("scripted")
def test_a_program_that_was_tried_is_not_run_again_under_other_comments(project: Project) -> None:
    project.script("80", "80#again")
    result = project.evolve("--generations", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["generation 2: duplicate  same program as generation 1", "not committed: *1 duplicate*"]
    )
    with open_view(project) as view:
        assert view.evaluations(view.attempts()[2].id, "screen") == ()


@pytest.mark.usefixtures("scripted")
def test_the_run_ends_when_the_operator_has_nothing_left(project: Project) -> None:
    project.script("80")
    result = project.evolve("--generations", "5")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["generation 2: scripted has nothing left to try"])


@pytest.mark.usefixtures("scripted")
def test_an_operator_that_breaks_ends_the_run_and_it_can_be_resumed(project: Project) -> None:
    project.script("80", "raise")
    result = project.evolve("--generations", "2", "-q")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert "the operator failed in generation 2: RuntimeError: the operator is broken" in text
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    project.script("80", "1")
    resumed = project.evolve("--generations", "2", "--avo-resume")
    resumed.stdout.fnmatch_lines(["resuming run 1: *", "generation 2: REPEAT 1", "generation 2: promoted*"])


@pytest.mark.usefixtures("scripted")
def test_drafts_are_evaluated_for_the_operator_and_kept(project: Project) -> None:
    project.script("drafts")
    result = project.evolve("--generations", "1")
    assert result.ret == 0
    assert (project.path / ".avo" / "drafts.txt").read_text() == "correct"
    with open_view(project) as view:
        seed = view.attempts()[0]
        assert len(view.evaluations(seed.id, "draft")) == 1


@pytest.mark.usefixtures("scripted")
def test_two_kernels_are_one_too_many(project: Project) -> None:
    project.kernel("good.py", GOOD)
    result = project.run("--avo-evolve", "kernels")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --avo-evolve: expected one kernel file, got kernels/good.py, kernels/slow.py"])


@pytest.mark.usefixtures("scripted")
def test_hooks_replace_each_part(project: Project) -> None:
    project.pytester.makeconftest(
        """
        from pytest_avo.operators.operator import Proposal

        def pytest_avo_propose(task):
            return Proposal(task.kernel.source.replace("REPEAT = 40", "REPEAT = 1"), "from the hook")

        def pytest_avo_promote(attempt, confirmed, floor):
            return False

        def pytest_avo_generation_finish(generation, verdicts):
            with open("finished.txt", "a") as file:
                file.write(f"{generation} {sorted({v.kind for v in verdicts.values()})}\\n")
        """
    )
    project.script("80")
    result = project.evolve("--generations", "1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["generation 1: from the hook", "generation 1: ambiguous*not confirmed*"])
    assert (project.path / "finished.txt").read_text() == "1 ['faster']\n"
    assert (project.path / "kernels" / "slow.py").read_text() == SLOW


@pytest.mark.usefixtures("scripted")
def test_the_embedded_operator_reads_the_tunables_and_gains(project: Project) -> None:
    arguments = ["--avo-evolve", "kernels/slow.py", "--avo-max-rounds", "6", "--avo-peers", "none", "--avo-seed", "1"]
    result = project.run(*arguments, "--generations", "5")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["generation 1: REPEAT 40 -> *", "*has nothing left to try", "*1 commit*"])
    assert "REPEAT = 1 " in (project.path / "kernels" / "slow.py").read_text().replace("\n", " ")


@pytest.mark.usefixtures("scripted")
def test_a_kernel_without_tunables_is_a_usage_error_for_the_embedded_operator(project: Project) -> None:
    project.kernel("good.py", GOOD)
    result = project.run("--avo-evolve", "kernels/good.py", "--avo-max-rounds", "3", "--avo-peers", "none")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *good.py*TUNABLES*"])


@pytest.mark.usefixtures("scripted")
def test_commit_makes_a_git_commit_with_the_scores(project: Project) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        found = subprocess.run(
            ["git", *identity, *arguments], cwd=project.path, capture_output=True, text=True, check=True
        )
        return found.stdout

    git("init", "-q")
    git("config", "user.name", "t")
    git("config", "user.email", "t@example.org")
    git("add", "kernels")
    git("commit", "-qm", "start")
    project.script("1")
    result = project.evolve("--generations", "1", "--avo-commit")
    assert result.ret == 0
    message = git("log", "-1", "--format=%B")
    assert message.startswith("Promote slow.py, generation 1: ")
    assert "Avo-Ratio-99: " in message
    assert git("show", "--stat", "--format=", "HEAD").split()[0] == "kernels/slow.py"


def test_a_hook_that_fails_is_named_with_its_line(project: Project) -> None:
    project.pytester.makeconftest(
        """
        def pytest_avo_promote():
            return {}['nothing']

        def pytest_avo_generation_finish():
            raise SystemExit(3)
        """
    )
    hooks = _hooks(project.pytester.parseconfigure("--avo-evolve", "kernels/slow.py"))
    said = r"the hook pytest_avo_promote failed: KeyError: 'nothing' \(.*conftest.py, line 2\)"
    with pytest.raises(EvaluatorError, match=said):
        hooks.promote(None, None, 0.0)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        hooks.finish(1, 0, {})
