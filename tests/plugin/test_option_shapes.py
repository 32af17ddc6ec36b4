"""--avo-shapes and wrong suite files."""

from __future__ import annotations

import os

import pytest

from tests.plugin.conftest import GOOD, SHAPES, SUITE, Project

pytestmark = pytest.mark.usefixtures("here")


def test_overrides_the_claim_for_any_file_given_by_path(project: Project) -> None:
    outside = project.path / "elsewhere.py"
    outside.write_text(GOOD.replace("AVO", "NOTES"))
    (project.path / "shapes" / "one.toml").write_text(
        SUITE.split("[[shape]]", 2)[0] + "[[shape]]" + SUITE.split("[[shape]]")[1]
    )
    result = project.run("--avo-bench", "elsewhere.py", "kernels", "--avo-shapes", "one", "--co", "-q")
    assert result.outlines[:2] == [f"elsewhere.py::{SHAPES[0]}", f"kernels/slow.py::{SHAPES[0]}"]


def test_a_shape_in_two_suites_is_one_item(project: Project) -> None:
    (project.path / "shapes" / "again.toml").write_text(SUITE)
    result = project.run("--avo-bench", "--avo-shapes", "tiny,again", "--co", "-q")
    assert result.outlines[:2] == [f"kernels/slow.py::{shape}" for shape in SHAPES]
    assert "2 tests collected" in result.stdout.str()


def test_an_unknown_suite_names_the_known_ones(project: Project) -> None:
    message = "--avo-shapes: unknown shape suite 'nosuch': expected one of *mha*tiny*"
    project.refuses(message, "--avo-bench", "--avo-shapes", "nosuch")


@pytest.mark.parametrize("given", ["5", "['tiny']", "'tiny'"])
def test_a_hook_that_gives_no_shapes_is_named(project: Project, given: str) -> None:
    project.pytester.makeconftest(f"def pytest_avo_shapes():\n    return {given}\n")
    project.refuses("*slow.py: the hook pytest_avo_shapes: expected Shapes, got *", "--avo-bench")


def test_environments_and_hidden_folders_are_not_looked_through(project: Project) -> None:
    broken = GOOD.replace('"tiny"', '"of another project"')
    for folder, mark in ((".hidden", "x"), ("env", "pyvenv.cfg"), ("node_modules", "x")):
        (project.path / folder / "deep").mkdir(parents=True)
        (project.path / folder / mark).touch()
        (project.path / folder / "deep" / "theirs.py").write_text(broken)
    (project.path / "kernels" / "up").symlink_to(project.path)
    project.refuses("--avo-shapes: unknown shape suite 'nosuch'*", "--avo-bench", ".", "--avo-shapes", "nosuch")
    config = project.pytester.parseconfigure("--avo-bench", ".")
    config.hook.pytest_collection(session=pytest.Session.from_config(config))
    hooks = config.pluginmanager.get_plugin("avo-run")
    assert hooks is not None
    assert (hooks.run.selection.mistakes, hooks.run.selection.is_empty) == ({}, False)


def test_a_pipe_among_the_kernels_is_left_alone(project: Project) -> None:
    os.mkfifo(project.path / "kernels" / "pipe.py")
    project.refuses("--avo-shapes: unknown shape suite 'nosuch'*", "--avo-bench", "--avo-shapes", "nosuch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("heads_q = 4", 'heads_q = "4"'), "*tiny.toml: [[][[]shape]] table 2, key heads_q: expected int, got str"),
        (
            ("heads_q = 4", "heads_q = 3"),
            "*tiny.toml: [[][[]shape]] table 2: heads_q must be a multiple of heads_kv, got 3 and 2",
        ),
        (("seqlen_q = 1\n", "seqlen_q = 0\n"), "*tiny.toml: [[][[]shape]] table 2, key seqlen_q: expected int >= 1"),
        (('dtype = "f32"', 'dtype = "f64"'), "*table 1, key dtype: expected one of f32, bf16, f16, got 'f64'"),
        (("causal = true", "casual = true"), "*table 1, key casual: unknown, expected one of batch, *"),
        (("batch = 1\n", ""), "*tiny.toml: [[][[]shape]] table 1, key batch: missing, expected in every *"),
        (("[[shape]]", "[[shape"), "*tiny.toml: not valid TOML: *"),
    ],
)  # fmt: skip
def test_a_wrong_suite_file_is_a_usage_error(project: Project, change: tuple[str, str], message: str) -> None:
    (project.path / "shapes" / "tiny.toml").write_text(SUITE.replace(*change))
    project.refuses(message, "--avo-bench")


def test_the_hook_can_choose_the_shapes(project: Project) -> None:
    project.pytester.makeconftest(
        """
        from pytest_avo.core.shape import Shape

        def pytest_avo_shapes(kernel):
            if kernel.path.name == "slow.py":
                return [Shape(1, 1, 1, 5, 5, 8, False, "bf16")]
        """
    )
    result = project.run("--avo-bench", "--co", "-q")
    assert result.outlines[0] == "kernels/slow.py::b1-h1-q5-k5-d8-full-bf16"
