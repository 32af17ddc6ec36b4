"""From what the user named to the baseline: a commit, a stored one, or none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.gate.baseline import check_baseline, open_gate
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.rules import Rules
from tests.gate.conftest import Repository

HERE = CpuDevice().fingerprint()


def settings(compare: str | None, folder: Path) -> GateSettings:
    return GateSettings(compare=compare, rules=Rules({}), lenient=True, allow_mismatch=False, folder=folder, save=None)


def test_without_a_baseline_there_is_no_gate(tmp_path: Path) -> None:
    assert open_gate(settings(None, tmp_path), tmp_path, fingerprint=HERE, floor=0.01) is None


def test_a_ref_is_a_commit_of_the_repository_around(repository: Repository) -> None:
    repository.write("kernel.py", "")
    commit = repository.commit()
    gate = open_gate(settings("git:main", repository.path), repository.path, fingerprint=HERE, floor=0.02)
    assert gate is not None
    assert (gate.baseline.describe(), gate.floor, gate.lenient) == (f"git:main ({commit[:8]})", 0.02, True)


def test_a_ref_that_is_none_is_found_out_before_the_run(repository: Repository) -> None:
    with pytest.raises(InvalidInput, match="--avo-compare git:nowhere: expected a commit"):
        check_baseline(settings("git:nowhere", repository.path), repository.path)
    check_baseline(settings("stored-later", repository.path), repository.path)


def test_a_stored_baseline_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    other = msgspec.structs.replace(HERE, device="Abacus")
    with pytest.raises(InvalidInput, match="nightly"):
        open_gate(settings("nightly", tmp_path), tmp_path, fingerprint=other, floor=0.01)
