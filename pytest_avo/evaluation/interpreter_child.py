"""The process that `interpret` starts: repair Triton's interpreter, run one call of a kernel, write the result.

Has to start with TRITON_INTERPRET=1 in its environment, because triton.jit looks at it when a kernel is defined.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from pytest_avo.evaluation.compile import describe, load_attention
from pytest_avo.evaluation.dry_run import pretended_device
from pytest_avo.evaluation.interpret import Answer, Refused, Request, TensorHeader, dtype_name, from_bytes, to_bytes


def repair() -> None:
    """Repair the two known faults of Triton 3.6.0's interpreter; Refused if this Triton has no such places.

    A product of bfloat16 operands multiplies their bit patterns, silently. And a loop bound known only at run time
    fails with NumPy 2.4 and later, which no longer turn an array of one element into an int.
    """
    try:
        multiply = interpreter.InterpreterBuilder.create_dot
        patch_tensor = interpreter._patch_lang_tensor
        handle = interpreter.TensorHandle
    except AttributeError as error:
        raise Refused(f"triton {triton.__version__}: its interpreter cannot be repaired ({error})") from None

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16 or operand.data.dtype != np.uint16:
            return operand
        # bfloat16 is the upper half of a float32.
        return handle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, widened(a), widened(b), *rest)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))

    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter._patch_lang_tensor = patch_lang_tensor


@triton.jit
def multiply_repeatedly(a_ptr, b_ptr, c_ptr, times):  # type: ignore[no-untyped-def]
    """Add the product of two 16 x 16 matrices to c, as often as said at run time."""
    rows = tl.arange(0, 16)
    at = rows[:, None] * 16 + rows[None, :]
    total = tl.zeros([16, 16], tl.float32)
    for _ in range(times):
        total = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), total)
    tl.store(c_ptr + at, total)


def probe() -> None:
    """Refused unless the interpreter gets both known faults right, repaired or because this Triton never had them."""
    a = torch.eye(16, dtype=torch.bfloat16)
    b = torch.arange(256, dtype=torch.float32).reshape(16, 16).to(torch.bfloat16)
    c = torch.empty(16, 16)
    try:
        multiply_repeatedly[(1,)](a, b, c, 2)
    except Exception as error:
        reason = f"its interpreter fails on a known case: {describe(error)}"
        raise Refused(f"triton {triton.__version__}: {reason}") from None
    if not torch.equal(c, 2 * b.float()):
        raise Refused(f"triton {triton.__version__}: its interpreter multiplies bfloat16 wrongly, repaired or not")


def answer(request: Request, payload: bytes) -> tuple[Answer, bytes]:
    """Run the call; the answer and the bytes of the result."""
    try:
        repair()
        probe()
    except Refused as refusal:
        return Answer(refused=str(refusal)), b""
    tensors = []
    for header in request.tensors:
        dtype_bytes = 4 if header.dtype == "f32" else 2
        size = dtype_bytes * int(np.prod(header.shape))
        tensors.append(from_bytes(header, payload[:size]).transpose(1, 2))
        payload = payload[size:]
    try:
        with pretended_device():
            attention = load_attention(Path(request.kernel))
            result = attention(*tensors, causal=request.causal, scale=request.scale)
        result = result.contiguous()
        return Answer(result=TensorHeader(tuple(result.shape), dtype_name(result))), to_bytes(result)
    except Exception as error:
        return Answer(failed=describe(error)), b""


def main() -> None:
    """Answer the one request on standard input."""
    head, _, payload = sys.stdin.buffer.read().partition(b"\n")
    request = msgspec.json.decode(head, type=Request)
    # The kernel may print: its standard output becomes standard error, and the answer keeps the real one.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        verdict, result = answer(request, payload)
        output.write(msgspec.json.encode(verdict) + b"\n" + result)


if __name__ == "__main__":
    main()
