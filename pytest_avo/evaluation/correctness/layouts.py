"""How the same numbers can lie in memory, with NaN wherever there are none.

The contract promises a contiguous last dimension and nothing else. What a model has beside the numbers that a call is
about (the gap behind a row, the empty slots of a cache) may hold anything, and NaN is what shows that it was read: no
weight of zero and no large negative score takes it away.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

Layout = Literal["bshd", "bhsd", "sbhd", "padded", "slots", "cache", "odd", "one batch", "one head"]
GAP = 16
"""Elements between rows, a multiple of any vector's width."""
ODD_GAP = 5
ODD_START_BYTES = 4
"""Where memory begins, beyond what any vector's width divides: where a word of single precision may, which is all that
honest kernels are known to rely on. With the gap every other row of half precision begins between two of them."""
SLOTS = 64
"""Empty slots behind the last row of a cache."""


def laid_out(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The values of x (batch, heads, seqlen, head_dim) in memory of their own.

    "bshd" is the models' order; "bhsd" and "sbhd" are others. "padded" is the models' order with a gap behind each row,
    "odd" the same with a gap and a start that no vector's width divides. "slots" and "cache" have empty slots behind
    the last row of each sequence, in the orders bshd and bhsd. "one batch" and "one head" repeat the first batch entry,
    or the first head, without a copy: the others' values are lost.
    """
    match layout:
        case "bshd" | "bhsd" | "sbhd":
            return _stored(x, layout)
        case "padded":
            return _stored(x, "bshd", gap=GAP)
        case "odd":
            return _stored(x, "bshd", gap=ODD_GAP, start=max(1, ODD_START_BYTES // x.element_size()))
        case "slots":
            return _stored(x, "bshd", slots=SLOTS)
        case "cache":
            return _stored(x, "bhsd", slots=SLOTS)
        case "one batch":
            return _stored(x[:1], "bshd").expand(x.shape)
        case "one head":
            return _stored(x[:, :1], "bshd").expand(x.shape)
    raise ValueError(f"no layout {layout!r}")


def repeat(x: torch.Tensor, layout: Layout) -> None:
    """Give x the values, in place, that `laid_out` leaves of them."""
    if layout == "one batch":
        x[:] = x[:1].clone()
    elif layout == "one head":
        x[:] = x[:, :1].clone()


def _stored(x: torch.Tensor, order: str, *, gap: int = 0, slots: int = 0, start: int = 0) -> torch.Tensor:
    """A copy of x in an order of its dimensions, with so many elements behind each row and rows behind the last."""
    dims = ["bhsd".index(letter) for letter in order]
    sizes = [x.shape[dim] + (slots if dim == 2 else gap if dim == 3 else 0) for dim in dims]
    memory = x.new_full((start + math.prod(sizes),), torch.nan)
    store = memory[start:].view(sizes).permute([dims.index(dim) for dim in range(4)])
    place = store[:, :, : x.shape[2], : x.shape[3]]
    place.copy_(x)
    return place
