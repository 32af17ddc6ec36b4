"""Results are delivered whole, and without a thread that a kernel has not started."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pytest_avo.evaluation.kernel_process.calls import GRAIN, deliver

LENGTHS = (8, GRAIN // 128)
LARGE = """
import os
import torch
from pytest_avo.evaluation.kernel_process.calls import deliver

torch.set_num_threads(4)
place, out = torch.zeros(4, 8, 512, 64).transpose(1, 2), torch.ones(4, 512, 8, 64)
before = len(os.listdir("/proc/self/task"))
deliver(out, place)
assert torch.equal(place, out)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_a_result_arrives_whatever_its_strides(dtype: torch.dtype, seqlen: int) -> None:
    plain = torch.randn(2, 4, seqlen, 64).to(dtype)
    negative = torch._neg_view(plain)
    for out in (plain, plain.transpose(1, 2).contiguous().transpose(1, 2), plain[:, :1].expand(2, 4, -1, -1), negative):
        place = torch.zeros(2, seqlen, 4, 64, dtype=dtype).transpose(1, 2)
        deliver(out.requires_grad_(out is plain), place)
        assert torch.equal(place, out.detach())
        plain.requires_grad_(False)


def test_a_large_result_is_copied_with_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
