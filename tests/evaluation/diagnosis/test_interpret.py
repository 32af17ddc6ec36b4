from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.diagnosis.interpret import Interpreter, KernelFailed, Refused, check
from tests import ROOT

SM90 = ROOT / "kernels" / "sm90"
TIMEOUT_S = 1800.0
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


CAUSAL = shape(2, 1, 33, 45, causal=True, dtype="bf16")  # no tile divides either length
ONE_QUERY = shape(2, 1, 1, 200, causal=False, dtype="f16")  # decode.py splits the keys and merges


def made(source: str, *, timeout_s: float = TIMEOUT_S, confined: bool = True) -> Interpreter:
    kernel = Kernel(path=Path("kernel.py"), source=source, claim=None, tunables=(), fault="")
    return Interpreter(kernel, confined=confined, timeout_s=timeout_s)


def tiny() -> Inputs:
    return draw(Case("tiny", TINY), generator(1, "cpu"))


@pytest.fixture(scope="module")
def decode() -> Iterator[Interpreter]:
    # Without its claim: log-sum-exp and blocks of decode.py take the interpreter three minutes.
    interpreter = made((SM90 / "decode.py").read_text())
    yield interpreter
    interpreter.close()


def test_a_shipped_kernel_is_right_by_the_rule_of_the_judge(decode: Interpreter) -> None:
    assert check(decode, ONE_QUERY) == ""


def test_a_shape_that_the_kernel_refuses(decode: Interpreter) -> None:
    with pytest.raises(Refused, match="the kernel refuses the shape: "):
        check(decode, Shape(1, 1, 1, 8, 8, 24, False, "bf16"))
    assert decode.is_alive


def test_a_wrong_kernel_is_found_out() -> None:
    """Its scale is wrong unless it is causal, and in half precision its dtype."""
    body = (SM90 / "naive.py").read_text().replace("def attention(", "def right(")
    body += (
        "\n\ndef attention(q, k, v, *, causal, scale):\n"
        "    if q.dtype is torch.float16:\n"
        "        return right(q, k, v, causal=causal, scale=scale).float()\n"
        "    return right(q, k, v, causal=causal, scale=scale if causal else scale * 1.1)\n"
    )
    interpreter = made(body)
    asked = draw(Case("right", CAUSAL), generator(1, "cpu"))
    assert answer_fault(asked, interpreter.call(asked)[0], None) is None
    assert "error" in check(interpreter, msgspec.structs.replace(CAUSAL, causal=False))
    assert "of torch.float32" in check(interpreter, msgspec.structs.replace(CAUSAL, dtype="f16"))
    interpreter.close()


def test_gluon_is_refused() -> None:
    with pytest.raises(Refused, match="Gluon kernels have no interpreter"):
        made((SM90 / "mha.py").read_text())


def test_a_file_without_triton_is_refused() -> None:
    with pytest.raises(Refused, match="does not import triton"):
        made("import torch\n\ndef attention(q, k, v, *, causal, scale):\n    return q\n")


def test_what_the_kernel_returns_or_raises_in_confinement(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, whose kernel does another thing in every call and dies in the last."""
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test-0123456789")
    body = f"""
    print('noise on standard output')
    calls.append(0)
    match len(calls):
        case 1:
            return q * 2
        case 2:
            raise TypeError('no such head_dim')
        case 3:
            raise TypeError(' '.join(os.environ))
        case 4:
            return open({os.fspath(Path(__file__))!r})
        case _:
            os._exit(7)
"""
    interpreter, inputs = made(f"import os\ncalls = []\n{HEAD}{body}"), tiny()
    assert torch.equal(interpreter.call(inputs)[0], inputs.q * 2)
    with pytest.raises(KernelFailed, match=r"^TypeError: no such head_dim$"):
        interpreter.call(inputs)
    with pytest.raises(KernelFailed) as caught:
        interpreter.call(inputs)
    assert "OPENAI" not in str(caught.value)
    with pytest.raises(KernelFailed, match="PermissionError"):
        interpreter.call(inputs)
    with pytest.raises(KernelFailed, match="the interpreter ended with status 7"):
        interpreter.call(inputs)
    assert not interpreter.is_alive
    interpreter.close()


def test_a_kernel_without_a_result_in_time_is_killed() -> None:
    interpreter = made(f"import time\ntime.sleep(600)\n{HEAD}    return q\n", timeout_s=1.0)
    with pytest.raises(KernelFailed, match="no result within 1 s"):
        interpreter.call(tiny())
    interpreter.close()
