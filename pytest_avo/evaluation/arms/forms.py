"""The form that a result must have: a plain tensor of exactly the shape, dtype and device that were asked for."""

from __future__ import annotations

import torch

from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.arms.faults import KernelFault
from pytest_avo.evaluation.arms.replies import Form
from pytest_avo.evaluation.correctness.inputs import Arguments
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES


def lse_shape(inputs: Arguments) -> tuple[int, ...]:
    """Shape of the log-sum-exp: (batch, heads_q, seqlen_q), or (heads_q, tokens) where sequences are packed."""
    rows = tuple(inputs.q.shape[:-1])
    return rows if len(rows) == 3 else rows[::-1]


def check_form(form: Form, inputs: Arguments, dtype: Dtype, *, place: str, lse: bool) -> None:
    """KernelFault unless a result, or a log-sum-exp, has its exact form and lies in memory of its own."""
    if form.role == "pair":
        raise KernelFault("incorrect", f"returned a {form.type} for return_lse=True, expected a tuple (out, lse)")
    is_lse = lse and form.role == "lse"
    what, shape = ("lse", lse_shape(inputs)) if is_lse else ("output", tuple(inputs.q.shape))
    if not form.plain:
        where = "" if what == "output" else f" as {what}"
        raise KernelFault("rejected", f"returned a {form.type}{where}, expected a plain torch.Tensor")
    wanted = str(torch.float32 if is_lse else TORCH_DTYPES[dtype]).removeprefix("torch.")
    for quality, got, expected in (
        ("shape", form.shape, list(shape)),
        ("dtype", form.dtype, wanted),
        ("device", form.device, place),
    ):
        if got != expected:
            raise KernelFault("incorrect", f"{what} {quality} is {got}, expected {expected}")
    if form.aliased:
        raise KernelFault("rejected", f"{what} shares memory with an input")
