"""--avo-interpret: plain Triton kernels in Triton's interpreter, on the CPU."""

from __future__ import annotations

import shutil

import pytest

from tests.plugin.conftest import ATTENTION, GOOD, Project
from tests.plugin.test_option_compile import NAIVE

TWO = """
[[shape]]
batch = 1
heads_q = 2
heads_kv = 1
seqlen_q = 33
seqlen_kv = 40
head_dim = 64
causal = true
dtype = "bf16"

[[shape]]
batch = 1
heads_q = 1
heads_kv = 1
seqlen_q = 16
seqlen_kv = 16
head_dim = 24
causal = false
dtype = "bf16"
"""
COPIED = f"""
{ATTENTION.replace("def attention(", "def computed(")}
import triton
import triton.language as tl

AVO = {{"target": "sm90", "shapes": ["two"]}}


@triton.jit
def copy(source, target, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < size), mask=at < size)


def attention(q, k, v, *, causal, scale):
    if q.shape[-1] == 24:
        raise NotImplementedError("head_dim 24")
    found = computed(q, k, v, causal=causal, scale=scale).contiguous()
    out = torch.empty_like(found)
    copy[(triton.cdiv(found.numel(), 65536),)](found, out, found.numel(), BLOCK=65536)
    return out
"""
"""A kernel whose few programs take the interpreter a moment."""
ID = "b1-h2kv1-q33-k40-d64-causal-bf16"


@pytest.fixture
def hopper(here: Project) -> Project:
    (here.path / "shapes" / "two.toml").write_text(TWO)
    shutil.copy(NAIVE, here.path / "kernels" / "naive.py")
    (here.path / "kernels" / "slow.py").unlink()
    return here


def test_right_wrong_refused_and_not_interpretable(hopper: Project) -> None:
    """Kernels that ship are interpreted in tests/evaluation/diagnosis/test_interpret.py: a program takes 40 ms."""
    hopper.kernel("good.py", GOOD)
    shutil.copy(NAIVE.parent / "mha.py", hopper.path / "kernels" / "mha.py")
    hopper.kernel("naive.py", COPIED)
    hopper.kernel("wrong.py", COPIED.replace("causal=causal", "causal=False"))
    result = hopper.run("--avo-interpret", "kernels", "--avo-shapes", "two", "-rs", "-v")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1, skipped=6)
    result.stdout.fnmatch_lines(
        [
            "avo: Triton kernels in Triton's interpreter, for correctness alone; nothing is timed",
            f"kernels/naive.py::{ID} PASSED*",
            "* error * > limit * (heads from *, rows from *) (*seed *)",
        ]
    )
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED *does not import triton, so there is nothing to interpret",
            "SKIPPED *Gluon kernels have no interpreter*",
            "SKIPPED [[]2[]] *the kernel refuses the shape: *",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_the_suite_smoke_whatever_the_claim(hopper: Project) -> None:
    result = hopper.run("--avo-interpret", "kernels/naive.py", "--co", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["kernels/naive.py::b1-h1-q1-k1-d64-causal-f32"])
    assert "8192" not in result.stdout.str()


def test_one_mode_at_a_time(hopper: Project) -> None:
    hopper.refuses("--avo-bench and --avo-interpret: expected one of them", "--avo-interpret", "--avo-bench")
