"""What is read out of a disassembly, and a kernel's build recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.host_build import disassembled, host_report, innermost, report, table

SHAPE = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=8, seqlen_kv=8, head_dim=64, causal=False, dtype="f32")
LISTING = """
0000000000001000 <attention>:
    1000:\tpush   %rbp
    1001:\tvmovups (%rdi),%ymm0
    1010:\tvfmadd231ps (%rsi),%ymm1,%ymm0
    1016:\tvmovaps %ymm0,0x20(%rsp)
    101c:\tdec    %rcx
    1020:\tjne    1010 <attention+0x10>
    1022:\tvmovaps 0x20(%rsp),%ymm0
    1028:\tjmp    1001 <attention+0x1>
    102a:\tret

0000000000001040 <_init>:
    1040:\tret
"""
BUILT = '''
import ctypes, subprocess
SOURCE = """
extern "C" void add(float* x, int n) { for (int i = 0; i < n; i++) x[i] += 1; }
"""

def attention(q, k, v, *, causal, scale):
    command = ["g++", "-O3", "-mavx2", "-shared", "-fPIC", "-x", "c++", "-", "-o", "lib.so"]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return q
'''


def made(source: str) -> Kernel:
    return Kernel(path=Path("kernel.py"), source=source, claim=None, tunables=(), fault="")


def test_products_and_spills_are_counted_in_innermost_loops() -> None:
    functions = dict(disassembled(LISTING))
    assert list(functions) == ["attention"]
    (loop,) = innermost(functions["attention"])
    assert [each.opcode for each in loop] == ["vfmadd231ps", "vmovaps", "dec", "jne"]
    head, row, _ = table(functions)
    assert head.split() == ["function", "instr.", "bits", "products", "spills", "in", "all", "calls"]
    assert row.split() == ["attention", "9", "256", "1", "1", "2", "0"]


def test_what_a_kernel_builds_is_reported_with_the_compilers_own_words() -> None:
    found = host_report(made(BUILT), SHAPE, function="", confined=True)
    assert "loops vectorised: " in found
    assert "optimized: loop vectorized using 32 byte vectors" in found
    assert "add  " in found


def test_a_kernel_that_compiles_nothing(tmp_path: Path) -> None:
    (line,) = report(tmp_path, "")
    assert line.startswith("nothing was compiled")


def test_a_compiler_that_refuses_is_the_reason() -> None:
    with pytest.raises(EvaluatorError, match=r"no compile report: .*returned non-zero exit status 1"):
        host_report(made(BUILT.replace("float* x", "float* y")), SHAPE, function="", confined=True)
