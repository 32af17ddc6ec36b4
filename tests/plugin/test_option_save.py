"""--avo-save, --avo-autosave and --avo-allow-mismatch: baselines of other runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_avo.evaluation.devices import cpu
from tests.plugin.conftest import SHAPES, Project
from tests.plugin.test_option_compare import repeated

pytestmark = pytest.mark.usefixtures("scripted")

ROUNDS = ("--avo-max-rounds", "3")


def change(project: Project, **keys: Any) -> None:
    path = project.path / ".avo" / "baselines" / "main.json"
    content = json.loads(path.read_text())
    content["fingerprint"] |= keys
    path.write_text(json.dumps(content))


def test_a_stored_baseline_is_compared_with_relative_to_a_peer(project: Project) -> None:
    result = project.run("--avo-bench", "--avo-save", "main", *ROUNDS)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["stored 2 results as baseline main"])
    against = ["--avo-bench", "--avo-compare-fail", "100%", "-k", SHAPES[0], *ROUNDS]
    same = project.run(*against, "--avo-compare", "main")
    assert same.ret == 0
    same.stdout.fnmatch_lines(["avo: *; compared with baseline main (*"])
    project.kernel("slow.py", repeated(400))
    slower = project.run(*against, "--avo-compare", ".avo/baselines/main.json", "--avo-json", "out.json")
    assert slower.ret == 1
    slower.stdout.fnmatch_lines([f"slower  {SHAPES[0]}: *% slower than baseline main (relative to torch-sdpa)*"])
    assert set(project.json()["avo"]["geomean"]) == {"baseline", "torch-sdpa"}


@pytest.mark.parametrize("was_idle", [True, False])
def test_threads_wait_for_each_other_as_they_did_when_the_baseline_was_stored(
    project: Project, monkeypatch: pytest.MonkeyPatch, was_idle: bool
) -> None:
    monkeypatch.setattr(cpu, "_found_idle", lambda cores: was_idle)
    project.run("--avo-bench", "--avo-save", "main", *ROUNDS)
    monkeypatch.setattr(cpu, "_found_idle", lambda cores: not was_idle)
    project.kernel("slow.py", repeated(400))
    compared = ("--avo-compare", "main", "--avo-compare-fail", "100%", "--avo-json", "out.json")
    assert project.run("--avo-bench", *compared, *ROUNDS).ret == 1, "what is slower is seen whatever the machine does"
    assert [row["spins"] for row in project.json()["avo"]["results"]] == [was_idle, was_idle]
    project.run("--avo-bench", "--avo-json", "alone.json", *ROUNDS)
    assert [row["spins"] for row in project.json("alone.json")["avo"]["results"]] == [not was_idle, not was_idle]


def test_another_machine_is_a_usage_error_that_says_what_differs(project: Project) -> None:
    project.run("--avo-bench", "--avo-save", "main", *ROUNDS)
    change(project, device="another", torch="1.0")
    refused = project.run("--avo-bench", "--avo-compare", "main", *ROUNDS)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["ERROR: --avo-compare main: *: device: another there, * here; torch: 1.0 there, * here"]
    )
    assert project.run("--avo-bench", "--avo-compare", "main", "--avo-allow-mismatch", *ROUNDS).ret == 0


def test_a_shape_that_the_baseline_lacks_fails_and_is_listed(project: Project) -> None:
    project.run("--avo-bench", "--avo-save", "main", "-k", SHAPES[0], *ROUNDS)
    result = project.run("--avo-bench", "--avo-compare", "main", "--avo-compare-fail", "900%", *ROUNDS)
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"no baseline  {SHAPES[1]}: baseline main has no kernels/slow.py on this shape"])


def test_autosave_names_the_baseline(project: Project) -> None:
    commit = project.commit()
    project.run("--avo-bench", "--avo-autosave", "-n", "2", *ROUNDS)
    (path,) = (project.path / ".avo" / "baselines").glob("*.json")
    assert path.stem.endswith(f"-{commit[:8]}")
    assert len(json.loads(path.read_text())["entries"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--avo-save", "a/b"], "--avo-save: expected a name of letters, digits, *, got 'a/b'"),
        (["--avo-compare", ""], "--avo-compare: expected a name of letters, digits, *, got ''"),
        (["--avo-save", "a", "--avo-autosave"], "--avo-save and --avo-autosave: expected one of them"),
        (["--avo-compare", "nosuch"], "--avo-compare nosuch: there is no *nosuch.json; expected git:REF, a path or *"),
        (["--avo-allow-mismatch"], "--avo-allow-mismatch: expected --avo-compare too"),
    ],
)
def test_wrong_choices_are_usage_errors(project: Project, options: list[str], message: str) -> None:
    project.refuses(message, "--avo-bench", *options)


def test_where_no_baseline_can_be_stored_nothing_is_measured(project: Project) -> None:
    (project.path / ".avo").write_text("a file")
    expected = "*/.avo/baselines/main.json: cannot be written: *"
    project.refuses(expected, "--avo-bench", "--avo-save", "main")
