"""Kernels as they are at a git ref."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.kernel import parse_kernel, read_kernel
from pytest_avo.core.source import PROVENANCE
from pytest_avo.gate.gains import Comparand, Gains
from pytest_avo.gate.refs import at_ref
from tests.gate.conftest import Repository
from tests.report.result_rows import shape

OLD, NEW = "def attention(): ...  # old\n", "def attention(): return 1  # new\n"


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


@pytest.mark.parametrize(
    "changed",
    [
        "# a comment\n" + OLD,
        OLD.replace("# old", ""),
        OLD.replace("\n", "\r\n"),
        OLD.replace("...", '\n    """What it does."""'),
    ],
)
def test_a_file_that_differs_in_what_does_not_run_needs_no_measuring(repository: Repository, changed: str) -> None:
    path = repository.write("a.py", OLD.replace("...", "pass"))
    repository.commit()
    path.write_bytes(changed.replace("...", "pass").encode())
    assert at_ref("HEAD", repository.path).is_same(read_kernel(path))
    path.write_bytes(changed.replace("...", "pass").replace("()", "(q)").encode())
    assert not at_ref("HEAD", repository.path).is_same(read_kernel(path))


@pytest.mark.parametrize("told", [True, False])
def test_a_renamed_file_is_followed(repository: Repository, told: bool) -> None:
    text = "".join(f"LINE_{number} = {number}\n" for number in range(20)) + OLD
    path = repository.write("a.py", text)
    repository.write("b.py", "")
    repository.commit()
    new = repository.path / "sub" / "named [anew].py"
    new.parent.mkdir()
    path.rename(new)
    assert at_ref("HEAD", repository.path).is_same(read_kernel(new))
    new.write_text(text.replace("LINE_3", "LINE_THREE"))
    if told:
        repository.git("add", "--all")
    subject = at_ref("HEAD", repository.path).subject(read_kernel(new))
    assert subject is not None
    assert subject.source == text
    assert repository.git("status", "--porcelain").startswith("R" if told else "D"), "the index is as it was"


def test_a_copy_is_new(repository: Repository) -> None:
    path = repository.write("a.py", OLD)
    repository.commit()
    assert at_ref("HEAD", repository.path).subject(read_kernel(repository.write("b.py", path.read_text()))) is None


def test_a_link_is_followed_at_the_ref_and_now(repository: Repository) -> None:
    repository.write("real/a.py", OLD)
    link = repository.path / "kernels" / "a.py"
    link.parent.mkdir()
    link.symlink_to("../real/a.py")
    (repository.path / "linked").symlink_to("real")
    repository.commit()
    repository.write("real/a.py", NEW)
    later = repository.path / "later.py"
    later.symlink_to("real/a.py")
    for path in (link, repository.path / "linked" / "a.py", later):
        subject = at_ref("HEAD", repository.path).subject(read_kernel(path))
        assert subject is not None
        assert subject.source == OLD
    (repository.path / "linked").unlink()
    repository.write("linked/a.py", NEW)
    subject = at_ref("HEAD", repository.path).subject(read_kernel(repository.path / "linked" / "a.py"))
    assert subject is not None
    assert subject.source == OLD


def test_a_link_out_of_the_repository_or_in_a_circle_has_no_baseline(repository: Repository) -> None:
    for name, target in (("out.py", "../../etc/a.py"), ("circle.py", "circle.py")):
        (repository.path / name).symlink_to(target)
    repository.commit()
    for name in ("out.py", "circle.py"):
        (repository.path / name).unlink()
        kernel = read_kernel(repository.write(name, NEW))
        assert at_ref("HEAD", repository.path).subject(kernel) is None


def test_the_environment_of_another_repository_s_hook_does_not_matter(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.write("a.py", OLD)
    commit = repository.commit()
    other = Repository(tmp_path_factory.mktemp("other"))
    other.git("init", "--quiet")
    for name in ("GIT_DIR", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(other.path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.path))
    monkeypatch.setenv("GIT_PREFIX", "sub/")
    baseline = at_ref("main", repository.path)
    assert baseline.commit == commit
    assert baseline.is_same(read_kernel(path))


def test_a_kernel_of_a_submodule_is_what_the_commit_records_of_it(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inner = Repository(tmp_path_factory.mktemp("inner"))
    inner.git("init", "--quiet", "--initial-branch", "trunk")
    inner.write("a.py", OLD)
    inner.commit()
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path), "sub")
    repository.commit()
    path = repository.write("sub/a.py", NEW)
    here = Repository(repository.path / "sub")
    new = here.commit()
    subject = at_ref("main", repository.path).subject(read_kernel(path))
    assert subject is not None
    assert subject.source == OLD
    repository.commit()
    here.git("reset", "--quiet", "--hard", "HEAD~1")
    here.git("reflog", "expire", "--expire=now", "--all")
    here.git("gc", "--quiet", "--prune=now")
    fetch = f"git -C .*sub fetch --depth=1 origin {new} brings it"
    with pytest.raises(InvalidInput, match=f"a.py: --avo-compare git:main: its submodule lacks commit .*{fetch}"):
        at_ref("main", repository.path).subject(read_kernel(path))


def test_a_repository_inside_another_has_its_own_ref(repository: Repository) -> None:
    repository.write("b.py", OLD)
    repository.commit()
    inner = Repository(repository.path / "nested")
    path = inner.write("a.py", OLD)
    inner.git("init", "--quiet", "--initial-branch", "main")
    inner.commit()
    assert at_ref("main", repository.path).is_same(read_kernel(path))
    inner.git("branch", "--move", "trunk")
    path = inner.write("b.py", OLD)
    with pytest.raises(
        InvalidInput, match=r"b\.py: --avo-compare git:main: expected a commit, branch or tag of .*nested"
    ):
        at_ref("main", repository.path).is_same(read_kernel(path))


def test_a_kernel_outside_any_repository_has_no_baseline(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    outside = tmp_path_factory.mktemp("outside") / "a.py"
    outside.write_text(OLD)
    assert at_ref("main", repository.path).subject(read_kernel(outside)) is None


def test_an_object_that_git_cannot_read_is_not_taken_for_a_file_that_is_not_there(repository: Repository) -> None:
    path = repository.write("a.py", OLD)
    repository.commit()
    digest = repository.git("rev-parse", "HEAD:a.py")
    (repository.path / ".git" / "objects" / digest[:2] / digest[2:]).unlink()
    with pytest.raises(InvalidInput, match=r"a\.py: --avo-compare git:main: error: cannot read object"):
        at_ref("main", repository.path).subject(read_kernel(path))


def test_a_checkout_with_other_line_ends_is_unchanged(repository: Repository) -> None:
    path = repository.write("a.py", OLD)
    repository.commit()
    repository.git("config", "core.autocrlf", "true")
    path.write_bytes(OLD.replace("\n", "\r\n").encode())
    assert at_ref("main", repository.path).is_same(read_kernel(path))


@pytest.mark.parametrize(("source", "fault"), [("def (\n", "syntax error: "), ("# coding: nosuch\n", "syntax error: ")])
def test_what_is_no_python_at_the_ref_is_no_baseline(repository: Repository, source: str, fault: str) -> None:
    path = repository.write("a.py", source)
    repository.commit()
    path.write_text(NEW)
    case = Comparand(read_kernel(path), "a.py", shape())
    baseline = at_ref("main", repository.path)
    assert baseline.subject(case.kernel) is None
    assert not baseline.is_same(case.kernel)
    reason = baseline.gains(case, Evaluation(shape().id, "ok"))
    assert isinstance(reason, str)
    assert reason.startswith(f"git:main fails here: {fault}")


def test_a_new_file_has_no_baseline(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    kernel = read_kernel(repository.write("b.py", NEW))
    baseline = at_ref("main", repository.path)
    assert baseline.subject(kernel) is None
    assert not baseline.is_same(kernel)
    case = Comparand(kernel, "b.py", shape())
    assert baseline.gains(case, Evaluation(shape().id, "ok")) == "git:main has no b.py"


def test_a_baseline_that_fails_on_the_shape_is_said_to(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    case = Comparand(parse_kernel(NEW, path=repository.path / "a.py"), "a.py", shape())
    timing = Timing({KERNEL: ((1.0, 1.0),)}, calls=1, stopped="")
    evaluation = Evaluation(shape().id, "ok", timing=timing, notes=("fa3: absent", "baseline: ValueError: no"))
    reason = at_ref("main", repository.path).gains(case, evaluation)
    assert reason == "git:main fails here: ValueError: no"


def test_gains_are_paired_log_ratios(repository: Repository) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    case = Comparand(parse_kernel(NEW, path=repository.path / "a.py"), "a.py", shape())
    timing = Timing({KERNEL: ((1.0, 2.0),), BASELINE: ((2.0, 4.0),)}, calls=1, stopped="")
    evaluation = Evaluation(shape().id, "ok", timing=timing)
    assert at_ref("main", repository.path).median_us(case, evaluation) == pytest.approx(3e6)
    gains = at_ref("main", repository.path).gains(case, evaluation)
    assert isinstance(gains, Gains)
    assert list(gains.launches[shape().id][0]) == pytest.approx([0.6931, 0.6931], abs=1e-4)
    assert gains.comparison(7.0).ratio == pytest.approx(2)


@pytest.mark.parametrize("ref", ["nosuch", "--help", "main:a.py", "", "origin/main"])
def test_a_ref_that_names_no_commit_is_a_usage_error(repository: Repository, ref: str) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    with pytest.raises(InvalidInput) as error:
        at_ref(ref, repository.path)
    expected = f"--avo-compare git:{ref}: expected a commit, branch or tag of the repository {repository.path}"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    "ref", ["origin/main", "origin/topic/a", "main", "v1", "HEAD~1", "SHA", "SHORT", "origin/main~1"]
)
def test_a_shallow_clone_names_the_fetch_that_works(repository: Repository, tmp_path: Path, ref: str) -> None:
    repository.write("a.py", OLD)
    first = repository.commit()
    repository.git("tag", "v1")
    repository.write("a.py", NEW)
    repository.commit()
    repository.git("branch", "topic/a")
    repository.git("checkout", "--quiet", "-b", "pull")
    repository.write("b.py", NEW)
    repository.commit()
    clone = Repository(tmp_path / "clone")
    repository.git("clone", "--quiet", "--depth=1", "--branch=pull", f"file://{repository.path}", str(clone.path))
    ref = {"SHA": first, "SHORT": first[:8]}.get(ref, ref)
    with pytest.raises(InvalidInput, match="this clone is shallow: git fetch ") as error:
        at_ref(ref, clone.path)
    command = str(error.value).partition("shallow: git ")[2].split()
    clone.git("-c", "fetch.writeCommitGraph=false", *command)
    assert at_ref(ref, clone.path).commit == repository.git("rev-parse", ref.removeprefix("origin/"))


def test_a_branch_that_was_not_fetched_is_named_with_its_fetch(repository: Repository, tmp_path: Path) -> None:
    repository.write("a.py", OLD)
    repository.commit()
    repository.git("branch", "other")
    clone = Repository(tmp_path / "clone")
    repository.git("clone", "--quiet", "--single-branch", f"file://{repository.path}", str(clone.path))
    with pytest.raises(InvalidInput, match="where it was not fetched: git fetch ") as error:
        at_ref("origin/other", clone.path)
    clone.git(*str(error.value).partition("fetched: git ")[2].split())
    assert at_ref("origin/other", clone.path).is_same(read_kernel(clone.path / "a.py"))


def test_outside_a_repository_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--avo-compare git:main: .*not a git repository"):
        at_ref("main", tmp_path)


def test_without_git_it_is_said(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="--avo-compare git:main: expected git on the PATH"):
        at_ref("main", repository.path)
