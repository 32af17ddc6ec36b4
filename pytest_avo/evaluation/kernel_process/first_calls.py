"""The first calls of a mathematics library, made by one thread before kernels' processes are forked.

MKL, which torch's vector functions on a CPU come from, chooses their code at the first call, and not safely: where two
threads make it at once, one of them now and then takes code of half the digits. The first `torch.exp` of a process that
shares it between two threads had relative errors of 1.5e-4 in 31 of 1,200 processes, in none of 1,200 that were forked
from one where `exp` had been called (torch 2.13.0+cpu, MKL 2024.2, 2-core x86 VM, 2026-11-29). Honest kernels were
incorrect by that in 3 of 200 checks in fresh processes.
"""

from __future__ import annotations

import torch

VECTOR_FUNCTIONS = (
    "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "floor", "frac",
    "lgamma", "log", "log10", "log1p", "log2", "reciprocal", "round", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan",
    "tanh", "trunc",
)  # fmt: skip


def settle() -> None:
    """Call every vector function once. Starts no thread, which a fork would lose."""
    for dtype in (torch.float32, torch.float64):
        few = torch.full((8,), 0.5, dtype=dtype)
        for name in VECTOR_FUNCTIONS:
            getattr(torch, name)(few)
