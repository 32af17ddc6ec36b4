from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pytest_avo.evaluation.interpret import KernelFailed, Refused, interpret

SM90 = Path(__file__).parents[2] / "kernels" / "sm90"
TIMEOUT_S = 100.0


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attention in float64, mask aligned bottom-right, zero where a row sees no key."""
    group = q.shape[1] // k.shape[1]
    k, v = (tensor.double().repeat_interleave(group, dim=1) for tensor in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~visible, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def random(batch: int, heads: int, seqlen: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seqlen)
    return torch.randn(batch, seqlen, heads, 64, generator=generator).to(dtype).transpose(1, 2)


@pytest.mark.parametrize("name", ["naive", "decode"])
@pytest.mark.parametrize(
    ("dtype", "heads_q", "heads_kv", "seqlen_q", "seqlen_kv", "causal"),
    [
        (torch.bfloat16, 4, 2, 65, 77, True),  # no tile divides either length
        (torch.float16, 4, 1, 1, 200, False),  # one query: decode splits the keys and merges
        (torch.bfloat16, 2, 2, 40, 17, True),  # the first 23 rows see no key
    ],
)
def test_seed_kernels_agree_with_float64(
    name: str, dtype: torch.dtype, heads_q: int, heads_kv: int, seqlen_q: int, seqlen_kv: int, causal: bool
) -> None:
    q = random(1, heads_q, seqlen_q, dtype)
    k, v = random(1, heads_kv, seqlen_kv, dtype), random(1, heads_kv, seqlen_kv, dtype).flip(2)

    out = interpret(SM90 / f"{name}.py", q, k, v, causal=causal, scale=0.1, timeout_s=TIMEOUT_S)

    expected = reference(q, k, v, causal=causal, scale=0.1)
    assert out.shape == q.shape
    assert out.dtype == dtype
    error = (out.double() - expected).abs().max() / v.double().abs().max()
    assert error <= 2 * torch.finfo(dtype).eps
    assert torch.equal(out[expected == 0], torch.zeros_like(out[expected == 0]))


def tiny() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return random(1, 1, 4, torch.float16), random(1, 1, 4, torch.float16), random(1, 1, 4, torch.float16)


def test_gluon_is_refused() -> None:
    with pytest.raises(Refused, match=r"mha\.py: Gluon kernels have no interpreter"):
        interpret(SM90 / "mha.py", *tiny(), causal=False, scale=1.0, timeout_s=TIMEOUT_S)


def test_a_file_without_triton_is_refused(tmp_path: Path) -> None:
    kernel = tmp_path / "plain.py"
    kernel.write_text("import torch\n\ndef attention(q, k, v, *, causal, scale):\n    return q\n")
    with pytest.raises(Refused, match=r"plain\.py: does not import triton"):
        interpret(kernel, *tiny(), causal=False, scale=1.0, timeout_s=TIMEOUT_S)


def test_what_the_kernel_raises_is_the_message(tmp_path: Path) -> None:
    kernel = tmp_path / "raises.py"
    kernel.write_text(
        "import triton\n\n"
        "def attention(q, k, v, *, causal, scale):\n"
        "    print('noise on standard output')\n"
        "    raise NotImplementedError('no such head_dim')\n"
    )
    with pytest.raises(KernelFailed, match=r"raises\.py: NotImplementedError: no such head_dim"):
        interpret(kernel, *tiny(), causal=False, scale=1.0, timeout_s=TIMEOUT_S)


def test_a_process_that_dies_is_a_failed_kernel(tmp_path: Path) -> None:
    kernel = tmp_path / "dies.py"
    kernel.write_text("import os\nimport triton\n\ndef attention(q, k, v, *, causal, scale):\n    os._exit(7)\n")
    with pytest.raises(KernelFailed, match=r"dies\.py: the interpreter ended with status 7"):
        interpret(kernel, *tiny(), causal=False, scale=1.0, timeout_s=TIMEOUT_S)


def test_a_kernel_that_hangs_is_killed(tmp_path: Path) -> None:
    kernel = tmp_path / "hangs.py"
    kernel.write_text("import triton\n\ndef attention(q, k, v, *, causal, scale):\n    while True:\n        pass\n")
    with pytest.raises(KernelFailed, match=r"hangs\.py: no result within 8 s"):
        interpret(kernel, *tiny(), causal=False, scale=1.0, timeout_s=8.0)
