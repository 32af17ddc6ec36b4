"""Options whose values are checked before anything runs: limits, rounds, peers, sandbox, generations."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import SHAPES, SLOW, Project
from tests.plugin.scripted_pool import ScriptedPool


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--avo-limits", "built=3"], "--avo-limits: 'built=3': expected PHASE=SECONDS for build, check or time*"),
        (["--avo-limits", "build=soon"], "--avo-limits: 'build=soon': expected PHASE=SECONDS*"),
        (["--avo-limits", "time=0"], "--avo-limits: 'time=0': expected PHASE=SECONDS*"),
        (["--avo-max-rounds", "1"], "--avo-max-rounds: expected at least 3, got 1"),
        (["--avo-peers", "cudn"], "--avo-peers: unknown peer 'cudn', expected some of *torch-sdpa*"),
        (["--generations", "0"], "--generations: expected at least 1, got 0"),
        (["--lf"], "--avo-evolve: does not go with --lf or --ff*"),
    ],
)
def test_a_wrong_value_is_a_usage_error(project: Project, arguments: list[str], message: str) -> None:
    project.refuses(message, "--avo-evolve", "kernels/slow.py", *arguments)


def test_a_wrong_ini_value_names_the_key(project: Project) -> None:
    project.pytester.makeini("[pytest]\navo_evolve =\n    gpu kernels/slow.py\n")
    project.refuses("ini key avo_evolve: 'gpu kernels/slow.py': expected 'TARGET: PATH'*", "--avo-evolve")


def test_an_ini_key_that_names_no_file_is_named(project: Project) -> None:
    project.pytester.makeini("[pytest]\navo_evolve = cpu: nosuch.py\n")
    project.refuses("ini key avo_evolve: there is no *nosuch.py: expected a kernel file", "--avo-evolve")


def test_a_wrong_value_from_elsewhere_is_told_with_its_place(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.pytester.makeini("[pytest]\navo_peers = cudn\n")
    project.refuses("--avo-peers: unknown peer 'cudn'* (from the ini key avo_peers of *tox.ini)", "--avo-bench")
    monkeypatch.setenv("PYTEST_AVO_PEERS", "cudx")
    project.refuses("--avo-peers: unknown peer 'cudx'* (from the variable PYTEST_AVO_PEERS)", "--avo-bench")


def test_a_bare_evolve_without_the_ini_key_says_what_to_do(project: Project) -> None:
    project.refuses("--avo-evolve: expected a kernel file, or a line 'cpu: PATH' in the ini key*", "--avo-evolve")


@pytest.mark.usefixtures("scripted")
def test_ini_gives_defaults_and_the_command_line_wins(project: Project) -> None:
    project.pytester.makeini("[pytest]\navo_peers = none\navo_shapes = nosuch\navo_kernels = other\n")
    (project.path / "other").mkdir()
    (project.path / "other" / "slow.py").write_text(SLOW)
    result = project.run("--avo-bench", "--co", "-q", "--avo-shapes", "tiny")
    assert result.outlines[:2] == [f"other/slow.py::{shape}" for shape in SHAPES]


@pytest.mark.usefixtures("scripted")
def test_a_peer_is_left_out_with_none(project: Project) -> None:
    result = project.run("--avo-bench", "--avo-peers", "none", "--avo-max-rounds", "3", "--avo-json", "out.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["avo: * peers none; *"])
    assert [row["peers"] for row in project.json()["avo"]["results"]] == [{}, {}]


@pytest.mark.usefixtures("scripted")
def test_the_sandbox_can_be_left_off_and_the_header_says_so(project: Project) -> None:
    result = project.run("--avo-bench", "--avo-sandbox", "off", "--avo-max-rounds", "3", "--avo-peers", "none")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["avo: * sandbox off; *)"])
    assert ScriptedPool.layers is False, "the pool was asked for none"
