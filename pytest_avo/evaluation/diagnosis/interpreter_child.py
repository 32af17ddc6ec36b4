"""The process that `interpret` starts: repair Triton's interpreter, load a kernel, answer calls.

Has to start with TRITON_INTERPRET=1 in its environment, because triton.jit looks at it when a kernel is defined.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import msgspec
import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from pytest_avo.evaluation.diagnosis.confined import command_line, confine, describe, is_refusal, load, own_output
from pytest_avo.evaluation.diagnosis.interpret import (
    Call,
    Interpreted,
    Refused,
    TensorHeader,
    dtype_name,
    from_bytes,
    to_bytes,
)
from pytest_avo.evaluation.kernel_process.absent_gpu import pretended_device


def repair() -> None:
    """Repair the known faults of Triton 3.6.0's interpreter; Refused if this Triton has no such places.

    A product of bfloat16 operands multiplies their bit patterns, silently. A loop bound known only at run time fails
    with NumPy 2.4 and later, which no longer turn an array of one element into an int. And float32 is cut off to
    bfloat16, where the hardware rounds to nearest: three times the error of a right kernel.
    """
    try:
        cast = interpreter.InterpreterBuilder.cast_impl
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

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return cast(self, source, target)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        # To nearest, ties to even; a NaN stays one.
        rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(source.data), (bits >> 16) | 0x40, rounded)
        return handle(rounded.astype(np.uint16), target.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter.InterpreterBuilder.cast_impl = cast_impl
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


@triton.jit
def round_down(source_ptr, target_ptr):  # type: ignore[no-untyped-def]
    """Store sixteen float32 as bfloat16."""
    at = tl.arange(0, 16)
    tl.store(target_ptr + at, tl.load(source_ptr + at).to(tl.bfloat16))


def probe() -> None:
    """Refused unless the interpreter gets the known faults right, repaired or because this Triton never had them."""
    a = torch.eye(16, dtype=torch.bfloat16)
    b = torch.arange(256, dtype=torch.float32).reshape(16, 16).to(torch.bfloat16)
    c = torch.empty(16, 16)
    exact = torch.linspace(-3.0, 3.0, 16)
    rounded = torch.empty(16, dtype=torch.bfloat16)
    try:
        multiply_repeatedly[(1,)](a, b, c, 2)
        round_down[(1,)](exact, rounded)
    except Exception as error:
        reason = f"its interpreter fails on a known case: {describe(error)}"
        raise Refused(f"triton {triton.__version__}: {reason}") from None
    if not torch.equal(c, 2 * b.float()):
        raise Refused(f"triton {triton.__version__}: its interpreter multiplies bfloat16 wrongly, repaired or not")
    if not torch.equal(rounded, exact.to(torch.bfloat16)):
        raise Refused(f"triton {triton.__version__}: its interpreter rounds to bfloat16 wrongly, repaired or not")


def answer(kernel: ModuleType, call: Call, payload: bytes) -> tuple[Interpreted, bytes]:
    """Run one call; the answer and the bytes of the result."""
    tensors = []
    for view in call.views:
        memory = from_bytes(view.memory, payload[: view.memory.size_bytes])
        tensors.append(memory.as_strided(view.shape, view.stride, view.start))
        payload = payload[view.memory.size_bytes :]
    try:
        with pretended_device():
            tables = {name: torch.tensor(table, dtype=torch.int32) for name, table in call.tables.items()}
            options: dict[str, Any] = {**tables, **call.numbers, **({"return_lse": True} if call.lse else {})}
            returned = getattr(kernel, call.function)(*tensors, causal=call.causal, scale=call.scale, **options)
            results = [x.contiguous() for x in (returned if call.lse else (returned,))]
        headers = tuple(TensorHeader(tuple(x.shape), dtype_name(x)) for x in results)
        return Interpreted(results=headers), b"".join(map(to_bytes, results))
    except Exception as error:
        if is_refusal(error, kernel.__file__ or ""):
            return Interpreted(refused=f"the kernel refuses the shape: {error}"), b""
        return Interpreted(failed=describe(error)), b""


def serve(kernel: Path, scratch: str | None, requests: IO[bytes], output: IO[bytes]) -> None:
    """Answer calls until there are no more."""
    always: Interpreted | None = None
    module: Any = None
    try:
        repair()
        probe()  # reads this file, which a confined process may not
        confine(scratch)
        with pretended_device():
            module = load(kernel)
    except Refused as refusal:
        always = Interpreted(refused=str(refusal))
    except Exception as error:
        always = Interpreted(failed=describe(error))
    while head := requests.readline():
        call = msgspec.json.decode(head, type=Call)
        payload = requests.read(sum(view.memory.size_bytes for view in call.views))
        verdict, result = (always, b"") if always is not None else answer(module, call, payload)
        output.write(msgspec.json.encode(verdict) + b"\n" + result)
        output.flush()


def main() -> None:
    """Answer the calls on standard input."""
    gc.freeze()  # what is imported never becomes garbage
    arguments = command_line("interpreter_child").parse_args()
    with own_output() as output:
        serve(arguments.kernel, arguments.scratch, sys.stdin.buffer, output)


if __name__ == "__main__":
    main()
