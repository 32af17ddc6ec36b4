from __future__ import annotations

import pytest

from pytest_avo.evaluation.diagnosis import host_build, inspector, profile, report, scratch


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels' processes may take half an hour: on a busy machine an honest profile took more than its two minutes."""
    for module in (host_build, profile, report, scratch):
        monkeypatch.setattr(module, "LIMIT_S", 1800.0)
    monkeypatch.setattr(inspector, "TRACE_LIMIT_S", 1800.0)
