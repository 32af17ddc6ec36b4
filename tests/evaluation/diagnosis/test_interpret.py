from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pytest_avo.core.kernel import Kernel, read_kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.diagnosis.interpret import Interpreter, KernelFailed, Refused, check
from tests import ROOT

SM90 = ROOT / "kernels" / "sm90"
TIMEOUT_S = 100.0
HEAD = "import triton\n\ndef attention(q, k, v, *, causal, scale):\n"
TINY = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=4, seqlen_kv=4, head_dim=64, causal=False, dtype="f16")


def shape(heads_q: int, heads_kv: int, seqlen_q: int, seqlen_kv: int, *, causal: bool, dtype: str) -> Shape:
    return Shape(
        batch=1,
        heads_q=heads_q,
        heads_kv=heads_kv,
        seqlen_q=seqlen_q,
        seqlen_kv=seqlen_kv,
        head_dim=64,
        causal=causal,
        dtype=dtype,  # type: ignore[arg-type]
    )


SHAPES = [
    shape(2, 1, 33, 45, causal=True, dtype="bf16"),  # no tile divides either length
    shape(2, 1, 1, 200, causal=False, dtype="f16"),  # one query: decode splits the keys and merges
    shape(1, 1, 40, 17, causal=True, dtype="bf16"),  # the first 23 rows see no key
]


def made(source: str, *, timeout_s: float = TIMEOUT_S, confined: bool = True) -> Interpreter:
    kernel = Kernel(path=Path("kernel.py"), source=source, claim=None, tunables=(), fault="")
    return Interpreter(kernel, confined=confined, timeout_s=timeout_s)


def tiny() -> Inputs:
    return draw(Case("tiny", TINY), generator(1, "cpu"))


@pytest.fixture(params=["naive", "decode"], scope="module")
def seed_kernel(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    interpreter = Interpreter(read_kernel(SM90 / f"{request.param}.py"), confined=True, timeout_s=TIMEOUT_S)
    yield interpreter
    interpreter.close()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
def test_seed_kernels_are_right_by_the_rule_of_the_judge(seed_kernel: Interpreter, shape: Shape) -> None:
    assert check(seed_kernel, shape) == ""


def test_a_shape_that_the_kernel_refuses(seed_kernel: Interpreter) -> None:
    with pytest.raises(Refused, match="the kernel refuses the shape: "):
        check(seed_kernel, Shape(1, 1, 1, 8, 8, 24, False, "bf16"))
    assert seed_kernel.is_alive


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        ("* scale", "* scale * 1.1", "error"),
        ("dtype=q.dtype", "dtype=torch.float32", "of torch.float32"),
    ],
)
def test_a_wrong_kernel_is_found_out(before: str, after: str, wrong: str) -> None:
    source = (SM90 / "naive.py").read_text()
    body = source.replace("def attention(", "def right(")
    body += "\n\ndef attention(q, k, v, *, causal, scale):\n"
    body += (
        "    return right(q, k, v, causal=causal, scale=scale * 1.1)\n"
        if wrong == "error"
        else "    return right(q, k, v, causal=causal, scale=scale).float()\n"
    )
    interpreter = made(body)
    assert wrong in check(interpreter, SHAPES[0])
    interpreter.close()


def test_gluon_is_refused() -> None:
    with pytest.raises(Refused, match="Gluon kernels have no interpreter"):
        made((SM90 / "mha.py").read_text())


def test_a_file_without_triton_is_refused() -> None:
    with pytest.raises(Refused, match="does not import triton"):
        made("import torch\n\ndef attention(q, k, v, *, causal, scale):\n    return q\n")


def test_what_the_kernel_raises_is_the_message() -> None:
    interpreter = made(f"{HEAD}    print('noise on standard output')\n    raise TypeError('no such head_dim')\n")
    with pytest.raises(KernelFailed, match=r"^TypeError: no such head_dim$"):
        interpreter.attention(tiny())
    interpreter.close()


def test_a_process_that_dies_is_a_failed_kernel() -> None:
    interpreter = made(f"import os\n{HEAD}    os._exit(7)\n")
    with pytest.raises(KernelFailed, match="the interpreter ended with status 7"):
        interpreter.attention(tiny())
    assert not interpreter.is_alive
    interpreter.close()


def test_a_kernel_that_hangs_is_killed() -> None:
    interpreter = made(f"{HEAD}    while True:\n        pass\n", timeout_s=8.0)
    with pytest.raises(KernelFailed, match="no result within 8 s"):
        interpreter.attention(tiny())
    interpreter.close()


def test_the_kernel_sees_neither_key_nor_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test-0123456789")
    interpreter = made(f"import os\n{HEAD}    raise TypeError(' '.join(os.environ))\n")
    with pytest.raises(KernelFailed) as caught:
        interpreter.attention(tiny())
    assert "OPENAI" not in str(caught.value)
    interpreter.close()
    interpreter = made(f"{HEAD}    return open({os.fspath(Path(__file__))!r})\n")
    with pytest.raises(KernelFailed, match="PermissionError"):
        interpreter.attention(tiny())
    interpreter.close()


def test_the_result_is_what_the_kernel_returned() -> None:
    interpreter = made(f"{HEAD}    return q * 2\n")
    inputs = tiny()
    assert torch.equal(interpreter.attention(inputs), inputs.q * 2)
    interpreter.close()
