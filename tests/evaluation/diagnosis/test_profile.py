"""Profiles of real kernels, by the profilers that this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.profile import _perf, by_name, counters, profile, table

SHAPE = Shape(batch=1, heads_q=2, heads_kv=2, seqlen_q=64, seqlen_kv=64, head_dim=64, causal=False, dtype="f32")
SOFTMAX = """
def attention(q, k, v, *, causal, scale):
    print("noise on standard output" * 1000)  # in all more than any pipe holds
    return (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v
"""


@pytest.fixture(autouse=True)
def _own_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(source: str) -> Kernel:
    return Kernel(path=Path("kernel.py"), source=source, claim=None, tunables=(), fault="")


def ended() -> Child:
    """A process that ends at once: what perf is asked of it, and what perf says, is the same."""
    return Child("compile", made(""), confined=False, arguments=["--no-such-option"])


def test_operations_by_their_own_time() -> None:
    found = profile(made(SOFTMAX), SHAPE, confined=True)
    head, *rows = found.splitlines()
    assert head.startswith("torch's profiler: ")
    assert any(row.endswith(" x aten::bmm") for row in rows)
    assert any(row.endswith(" x aten::_softmax") for row in rows)
    assert any(row.endswith("outside torch: Python, or code of your own") for row in rows)
    assert "noise" not in found
    assert "perf" in found


def test_without_perf_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with ended() as child:
        found = _perf(child)
    assert found == "perf: not on this machine, so the time inside compiled code is not divided further"


def test_a_perf_that_is_forbidden_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perf = tmp_path / "perf"
    perf.write_text("#!/bin/sh\necho 'Error: No permission to enable cpu-clock event.' >&2\nexit 255\n")
    perf.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with ended() as child:
        found = _perf(child)
    assert "perf: Error: No permission to enable cpu-clock event. (kernel.perf_event_paranoid may forbid it)" in found


def test_what_a_kernel_raises_is_the_reason_and_it_is_confined(tmp_path: Path) -> None:
    source = f"""
def attention(q, k, v, *, causal, scale):
    try:
        open({str(tmp_path / "escaped")!r}, 'w')
    except OSError as error:
        raise TypeError(f'no such thing: {{error.strerror}}')
"""
    with pytest.raises(
        EvaluatorError,
        match=r"^kernel\.py: no profile: TypeError: no such thing: (Read-only file system|Permission denied)$",
    ):
        profile(made(source), SHAPE, confined=True)


def test_the_table_is_sorted_and_adds_up() -> None:
    rows = [("small", 10, 1000.0), ("large", 20, 6000.0)]
    head, first, second, outside = table(rows, calls=10, spent_s=0.01, plain_us=850.0).splitlines()
    assert head == "torch's profiler: 1,000.0 us a call (10 calls), 850.0 us where it does not watch"
    assert first.split() == ["600.0", "us", "60.0%", "2.0", "x", "large"]
    assert second.split() == ["100.0", "us", "10.0%", "1.0", "x", "small"]
    assert outside.split()[:3] == ["300.0", "us", "30.0%"]


def test_code_without_symbols_counts_for_its_library() -> None:
    lines = [
        "    35.52%  libgomp.so.1          [.] 0x000000000001de62       -      -",
        "    34.28%  libgomp.so.1          [.] 0x000000000001e02a       -      -",
        "    20.00%  libtorch_cpu.so  [.] at::native::softmax(int)",
        "# a comment",
    ]
    assert by_name(lines) == [
        "    69.80%  libgomp.so.1  (no symbols)",
        "    20.00%  libtorch_cpu.so  at::native::softmax(int)",
    ]


def test_counters_of_the_processor_in_a_line() -> None:
    said = "1000,,cycles:u,1,100.00,,\n2500,,instructions:u,1,100.00,,\n<not supported>,,cache-misses,0,100.00,,\n"
    assert counters(said) == "perf stat: cycles 1e+03, instructions 2.5e+03, 2.50 instructions a cycle"
    assert counters("<not supported>,,cycles,0,,,").endswith("lets none of the processor's counters be read")
