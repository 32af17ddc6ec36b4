"""What a run leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.session.outputs import leave


def test_results_that_cannot_be_written_are_a_failure_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _: None))
    session = cast("pytest.Session", SimpleNamespace(config=config, exitstatus=0))

    def full() -> None:
        raise InvalidInput("r.json: cannot be written: No space left on device")

    assert leave(full, session) == pytest.ExitCode.INTERNAL_ERROR
    assert capsys.readouterr().out == "\nERROR: r.json: cannot be written: No space left on device\n"
    session.exitstatus = 1
    assert leave(full, session) == 1, "a kernel that is wrong, or too slow, matters more"
