"""Kernels as they are at a git ref."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.kernel import PROVENANCE, parse_kernel, read_kernel
from pytest_avo.gate.gains import Case, Gains
from pytest_avo.gate.refs import at_ref
from tests.gate.conftest import Repository
from tests.report.result_rows import shape

OLD, NEW = "def attention(): ...  # old\n", "def attention(): ...  # new\n"


def test_the_source_is_that_of_the_commit_also_in_a_folder_below(repository: Repository) -> None:
    path = repository.write("sub/kernels/a.py", OLD)
    commit = repository.commit()
    path.write_text(NEW)
    baseline = at_ref("main", repository.path / "sub")
    assert (baseline.name, baseline.commit) == ("git:main", commit)
    assert baseline.describe() == f"git:main ({commit[:8]})"
    subject = baseline.subject(read_kernel(path))
    assert subject is not None
    assert subject.source == OLD
    assert not baseline.is_same(read_kernel(path))


def test_a_moving_ref_is_what_it_was_when_the_run_began(repository: Repository) -> None:
    path = repository.write("a.py", OLD)
    repository.commit()
    baseline = at_ref("main", repository.path)
    path.write_text(NEW)
    repository.commit()
    assert not baseline.is_same(read_kernel(path))
    assert at_ref("main", repository.path).is_same(read_kernel(path))


def test_comments_of_a_promotion_are_no_change(repository: Repository) -> None:
    path = repository.write("a.py", OLD)
    repository.commit()
    path.write_text(f"{PROVENANCE}digest=1\n{OLD}")
    assert at_ref("HEAD", repository.path).is_same(read_kernel(path))


def test_a_new_file_has_no_baseline(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    kernel = read_kernel(repository.write("b.py", NEW))
    baseline = at_ref("main", repository.path)
    assert baseline.subject(kernel) is None
    assert not baseline.is_same(kernel)
    case = Case(kernel, "b.py", shape())
    assert baseline.gains(case, Evaluation(shape().id, "ok")) == "git:main has no b.py"


def test_a_baseline_that_fails_on_the_shape_is_said_to(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    case = Case(parse_kernel(NEW, path=repository.path / "a.py"), "a.py", shape())
    timing = Timing({KERNEL: ((1.0, 1.0),)}, calls=1, stopped="")
    evaluation = Evaluation(shape().id, "ok", timing=timing, notes=("fa3: absent", "baseline: ValueError: no"))
    reason = at_ref("main", repository.path).gains(case, evaluation)
    assert reason == "git:main fails here: ValueError: no"


def test_gains_are_paired_log_ratios(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    case = Case(parse_kernel(NEW, path=repository.path / "a.py"), "a.py", shape())
    timing = Timing({KERNEL: ((1.0, 2.0),), BASELINE: ((2.0, 4.0),)}, calls=1, stopped="")
    evaluation = Evaluation(shape().id, "ok", timing=timing)
    assert at_ref("main", repository.path).median_us(case, evaluation) == pytest.approx(3e6)
    gains = at_ref("main", repository.path).gains(case, evaluation)
    assert isinstance(gains, Gains)
    assert list(gains.launches[shape().id][0]) == pytest.approx([0.6931, 0.6931], abs=1e-4)
    assert gains.comparison(7.0).ratio == pytest.approx(2)


@pytest.mark.parametrize("ref", ["nosuch", "--help", "main:a.py", ""])
def test_a_ref_that_names_no_commit_is_a_usage_error(repository: Repository, ref: str) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    with pytest.raises(InvalidInput, match=f"--avo-compare git:{ref}: expected a commit, branch or tag"):
        at_ref(ref, repository.path)


def test_outside_a_repository_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--avo-compare git:main: .*not a git repository"):
        at_ref("main", tmp_path)
