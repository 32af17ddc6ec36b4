"""--avo-selftest: the corpus in the user's hands, exit status 1 if one escapes or an honest one is refused."""

from __future__ import annotations

import msgspec
import pytest

from pytest_avo.session.modes import selftest
from tests import ROOT
from tests.plugin.conftest import ATTENTION, Project

CORPUS = ROOT / "tests" / "cheats"
ONE_OF_EACH_CLASS = (
    "constant_mean", "fp8_weights", "wrong_dtype", "stale_memory", "sample_cache", "weights_cache", "call_count",
    "late_memory", "lazy_tensor", "patched_report", "one_input_bit", "deep_reply", "segfault", "gpu_fp8",
    "honest_strided",
)  # fmt: skip
"""What tries to reach out, to hang or to be linked is tested with the processes that hold it, in evaluation/arms.

There too: what restores its arguments. What refuses shapes and what burns a core is in evaluation/judge. Each that is
right is timed, for two seconds.
"""


@pytest.mark.long
def test_one_of_each_class_comes_out_as_expected(warm: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "PLAN", msgspec.structs.replace(selftest.PLAN, max_rounds=5))
    files = [str(CORPUS / f"{name}.py") for name in ONE_OF_EACH_CLASS]
    result = warm.run("--avo-selftest", "--avo-limits", "build=60,check=60,time=60", *files)
    result.stdout.fnmatch_lines([
        "class *file *expected *got *mechanism",
        "*lower precision (GPU) *gpu_fp8 *skipped *is for a gpu, this device is cpu",
        "*replay *sample_cache *incorrect *a call repeated with one element changed",
        f"{len(ONE_OF_EACH_CLASS) - 1} of {len(ONE_OF_EACH_CLASS) - 1} kernels as expected, 1 skipped",
    ])  # fmt: skip
    assert result.ret == 0


@pytest.mark.usefixtures("scripted")
def test_a_folder_of_further_kernels_and_exit_1_if_one_escapes(project: Project) -> None:
    folder = project.path / "mine"
    folder.mkdir()
    (folder / "h01_honest_after_all.py").write_text(f'"""A suspect.\n\nEXPECT: incorrect\n"""\n{ATTENTION}')
    (folder / "ok01_wrong.py").write_text(
        f'"""Said to be honest.\n\nEXPECT: accept\n"""\n{ATTENTION.replace("* scale", "* 0.01")}'
    )
    (folder / "notes.py").write_text("raise RuntimeError('never imported')")
    result = project.run("--avo-selftest", "mine", "-n", "2")
    result.stdout.fnmatch_lines(["0 of 2 kernels as expected"])
    result.stdout.fnmatch_lines(["ok01_wrong: incorrect: max error*"])
    result.assert_outcomes(failed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_mistake_in_a_docstring_is_a_usage_error(project: Project) -> None:
    path = project.kernel("odd.py", f'"""Odd.\n\nEXPECT: maybe\n"""\n{ATTENTION}')
    project.refuses("*odd.py: docstring, key EXPECT: expected some of *, got 'maybe'", "--avo-selftest", str(path))


def test_it_does_not_go_with_another_mode(project: Project) -> None:
    project.refuses("--avo-bench and --avo-selftest: expected one of them", "--avo-selftest", "--avo-bench")


@pytest.mark.usefixtures("here")
def test_the_corpus_is_found_without_a_path(project: Project) -> None:
    result = project.run("--avo-selftest", "--co", "-q")
    assert result.ret == 0
    assert len([line for line in result.outlines if "::" in line]) == len(list(CORPUS.glob("*.py")))


@pytest.mark.usefixtures("lost")
def test_where_the_machine_fails_none_escaped(project: Project) -> None:
    result = project.run("--avo-selftest", str(CORPUS / "honest_plain.py"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["evaluator: no worker is left: gw0 (popen)"])
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
