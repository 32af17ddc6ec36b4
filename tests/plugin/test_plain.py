"""A plain pytest in a project that has the plugin installed: nothing printed, nothing loaded, nothing started."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_prints_nothing_and_starts_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret == 0
    result.stdout.no_fnmatch_line("avo:*")
    with_plugin = [line for line in result.outlines if "avo" in line and not line.startswith("plugins:")]
    assert with_plugin == []
    assert not (pytester.path / ".avo").exists()


def test_collects_no_kernels(pytester: pytest.Pytester) -> None:
    pytester.mkdir("kernels").joinpath("k.py").write_text('AVO = {"target": "cpu", "shapes": ["smoke"]}')
    assert pytester.runpytest_subprocess().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, pytest_avo.plugin\n"
        "heavy = {'torch', 'triton', 'openai', 'numpy', 'optuna', 'msgspec', 'sqlite3', 'execnet'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_options_are_described(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")
    result.stdout.fnmatch_lines(["*--avo-bench*", "*--avo-evolve*", "*--avo-shapes=SUITE*", "*--avo-resume*"])
