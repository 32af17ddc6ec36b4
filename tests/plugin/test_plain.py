"""A plain pytest in a project that has the plugin installed; what it prints and loads is in tests/test_imports.py."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import PLUGINS


def test_collects_no_kernels(pytester: pytest.Pytester) -> None:
    pytester.mkdir("kernels").joinpath("k.py").write_text('AVO = {"target": "cpu", "shapes": ["smoke"]}')
    assert pytester.runpytest_inprocess(*PLUGINS).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_options_are_described(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*PLUGINS, "--help")
    result.stdout.fnmatch_lines(["*--avo-bench*", "*--avo-evolve*", "*--avo-shapes=SUITE*", "*--avo-resume*"])
