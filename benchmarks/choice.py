"""What it costs to choose a kernel: microseconds of a look-up on the way of a call.

Run `python benchmarks/choice.py`; on a GPU where there is one.
"""

from __future__ import annotations

from time import process_time
from timeit import repeat

import torch

from pytest_avo.kernels import attention, why
from pytest_avo.kernels.dispatch import taker
from pytest_avo.kernels.tensors import key_of

CALLS = 20_000


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q = torch.randn(1, 32, 1, 128, dtype=dtype, device=device)
    k, v = (torch.randn(1, 8, 2048, 128, dtype=dtype, device=device) for _ in "kv")
    attention(q, k, v)
    print(why(q, k, v))

    def choose() -> None:
        key = key_of(q, k, v, False)
        assert key is not None
        taker(key)

    best = min(repeat(choose, timer=process_time, number=CALLS, repeat=7)) / CALLS
    print(f"{best * 1e6:.2f} us of CPU to choose, the least of 7 times {CALLS} calls")


if __name__ == "__main__":
    main()
