"""What ncu prints where it counts nothing, and a program in its place that fails as it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.counters import ncu
from pytest_avo.evaluation.diagnosis.counters.call import FAULT

SHAPE = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=8, seqlen_kv=8, head_dim=64, causal=False, dtype="f16")
KERNEL = Kernel(path=Path("kernel.py"), source="", claim=None, tunables=(), fault="")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access counters",
            "the driver lets only administrators read the GPU's counters (ERR_NVGPUCTRPERM)",
        ),
        ("==WARNING== No kernels were profiled.\n", "ncu: No kernels were profiled."),
        (
            "==WARNING== Note: Running with unmodified GPU clocks.\n==WARNING== No kernels were profiled.\n",
            "ncu: No kernels were profiled.",
        ),
        ("", "ncu counted nothing, and does not say why"),
    ],
)
def test_why_nothing_was_counted(said: str, why: str) -> None:
    assert ncu.why_none(said) == why


def test_what_the_kernel_raised_is_the_fault() -> None:
    said = f"noise\n{FAULT}TypeError: no\n==ERROR== The application returned an error code (1).\n"
    assert ncu.fault_of(said) == "TypeError: no"
    assert ncu.fault_of("noise") == ""


def test_no_ncu_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ncu, "USUAL_PLACE", tmp_path / "ncu")
    with pytest.raises(ncu.NoCounters, match="is not on this machine"):
        ncu.count(KERNEL, SHAPE, environment={}, confined=True)


def test_a_program_that_is_refused_the_counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _in_place(monkeypatch, tmp_path, "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'\nexit 1")
    with pytest.raises(ncu.NoCounters, match="ERR_NVGPUCTRPERM"):
        ncu.count(KERNEL, SHAPE, environment={}, confined=True)


def test_a_kernel_that_fails_under_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _in_place(monkeypatch, tmp_path, f"echo '{FAULT}RuntimeError: out of tiles' >&2\nexit 1")
    with pytest.raises(EvaluatorError, match=r"^kernel\.py: no profile: RuntimeError: out of tiles$"):
        ncu.count(KERNEL, SHAPE, environment={}, confined=True)


def _in_place(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "ncu"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
