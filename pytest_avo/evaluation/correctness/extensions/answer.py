"""What is wrong with what a function of a kernel returned, whichever it is."""

from __future__ import annotations

import torch

from pytest_avo.evaluation.correctness.correctness import fault
from pytest_avo.evaluation.correctness.extensions.sequences import Packed, Paged
from pytest_avo.evaluation.correctness.inputs import Arguments, Inputs


def answer_fault(asked: Arguments, out: torch.Tensor, lse: torch.Tensor | None) -> str | None:
    """What is wrong with an output, or with the log-sum-exp where one was asked for, or None."""
    if isinstance(asked, Inputs):
        return _fault(asked, out, lse)
    assert isinstance(asked, Packed | Paged)
    for number, (inputs, result) in enumerate(zip(asked.sequences, asked.results(out, lse), strict=True)):
        if found := _fault(inputs, *result):
            lengths = f"{inputs.q.shape[2]} queries and {inputs.k.shape[2]} keys"
            return f"{found} (sequence {number} of {len(asked.sequences)}, {lengths})"
    return None


def _fault(inputs: Inputs, out: torch.Tensor, lse: torch.Tensor | None) -> str | None:
    if inputs.q.shape[2] == 0:
        return None
    if inputs.k.shape[2] == 0:
        if bool((out != 0).any()):
            return "output of a sequence without keys is not zero"
        is_wrong = lse is not None and bool((lse != -torch.inf).any())
        return "lse of a sequence without keys is not -inf" if is_wrong else None
    return fault(inputs, out, lse)
