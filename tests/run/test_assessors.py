"""What a run refuses before it measures."""

from __future__ import annotations

from typing import cast

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.run import assessors
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings


def test_a_control_group_in_which_honest_kernels_would_die_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assessors, "memory_bytes", lambda: 470_000_000)
    monkeypatch.setattr(assessors, "memory_limit", lambda: "its control group allows 470 MB of memory")
    with pytest.raises(
        InvalidInput, match="allows 470 MB of memory, expected at least 500: torch in several processes"
    ):
        assessors.assess_here(cast("Settings", None), Console(lambda: None))
