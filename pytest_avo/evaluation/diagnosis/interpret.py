"""Checking a plain Triton kernel on the CPU, in Triton's interpreter, in a confined process of its own.

Slow and exact in its own way: fit for shapes of a few hundred rows. `interpreter_child` is what the process runs.
"""

from __future__ import annotations

import ast
import secrets
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import DTYPE_BYTES, DTYPE_NAMES, Dtype, Shape
from pytest_avo.evaluation.diagnosis.child import Child

if TYPE_CHECKING:
    import torch

    from pytest_avo.evaluation.correctness.inputs import Arguments

LONGEST_BESIDE = 100
"""The longest sequence beside the shapes that were asked for: interpreting one takes a second or two."""


class Refused(Exception):
    """The kernel cannot be interpreted, or refuses the shape; the message says why."""


class KernelFailed(Exception):
    """The kernel raised, or its process died or ran out of time; the message says which."""


class TensorHeader(msgspec.Struct, frozen=True):
    """Shape and dtype of a tensor whose bytes follow, contiguous."""

    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def size_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


class Strided(msgspec.Struct, frozen=True):
    """How an argument lies in memory whose bytes follow, gaps included: all in elements."""

    memory: TensorHeader
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


class Call(msgspec.Struct, frozen=True):
    """A line that the child reads; the memory of q, k and v follows. tables: of int32, as lists."""

    function: str
    causal: bool
    scale: float
    views: tuple[Strided, Strided, Strided]
    tables: dict[str, Any]
    numbers: dict[str, int]
    lse: bool


class Interpreted(msgspec.Struct, frozen=True):
    """A line that the child writes; the bytes of the results follow: of the output, and of a log-sum-exp."""

    results: tuple[TensorHeader, ...] = ()
    refused: str = ""
    failed: str = ""


class Interpreter:
    """A kernel in a process that interprets it, call after call. Close it. Not safe for several threads."""

    def __init__(self, kernel: Kernel, *, confined: bool, timeout_s: float) -> None:
        """Start the process. Each call, and the start before the first, has timeout_s seconds.

        Refused for a file that cannot be interpreted, as its source shows.
        """
        refuse(kernel.source)
        self.claim = kernel.claim
        self._timeout_s = timeout_s
        self._child = Child("interpreter_child", kernel, confined=confined, environment={"TRITON_INTERPRET": "1"})

    @property
    def is_alive(self) -> bool:
        """Whether it can be called; after a death or a timeout it cannot."""
        return self._child.is_alive

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def call(self, asked: Arguments, *, lse: bool = False) -> list[torch.Tensor]:
        """What a function of the kernel returns for its arguments, as the interpreter computes it: out, or out and lse.

        Refused for what it cannot compute, or the kernel does not, KernelFailed for a kernel that raises, dies or does
        not end in time.
        """
        memories = [_memory(tensor) for tensor in asked.tensors]
        q, k, v = (_view(tensor, memory) for tensor, memory in zip(asked.tensors, memories, strict=True))
        tables = {name: table.tolist() for name, table in asked.tables.items()}
        call = Call(asked.function, asked.causal, asked.scale, (q, k, v), tables, dict(asked.numbers), lse)
        try:
            with self._child.within(self._timeout_s):
                return self._exchange(b"".join([msgspec.json.encode(call), b"\n", *map(to_bytes, memories)]))
        except (BrokenPipeError, EOFError):
            late = f"no result within {self._timeout_s:g} s"
            raise KernelFailed(self._last_words() if self._child.in_time else late) from None

    def _exchange(self, request: bytes) -> list[torch.Tensor]:
        self._child.requests.write(request)
        self._child.requests.flush()
        head = self._child.answers.readline()
        if not head.endswith(b"\n"):
            raise EOFError
        try:
            answer = msgspec.json.decode(head, type=Interpreted)
        except msgspec.DecodeError:
            raise KernelFailed("its process wrote something else than an answer") from None
        if answer.refused:
            raise Refused(answer.refused)
        if not answer.results:
            raise KernelFailed(answer.failed)
        payloads = [self._child.answers.read(result.size_bytes) for result in answer.results]
        if any(len(each) < result.size_bytes for each, result in zip(payloads, answer.results, strict=True)):
            raise EOFError
        return [from_bytes(result, each) for result, each in zip(answer.results, payloads, strict=True)]

    def _last_words(self) -> str:
        status, last = self._child.status(), self._child.last_words()
        return f"the interpreter ended with status {status}{': ' if last else ''}{last}"


def check(interpreter: Interpreter, shape: Shape) -> str:
    """What is wrong with the kernel's results for a shape and beside it, on fresh random inputs, or "".

    The calls are those of the judge. Refused where the kernel, or the interpreter, does not do the shape.
    """
    from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
    from pytest_avo.evaluation.correctness.extensions.cases import all_cases
    from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
    from pytest_avo.evaluation.correctness.inputs import Case
    from pytest_avo.evaluation.correctness.noise import generator

    seed = secrets.randbits(48)
    source = generator(seed, "cpu")
    for case in all_cases(shape, interpreter.claim, Random(seed), longest=LONGEST_BESIDE):
        asked = draw_any(replace(case, times=1) if isinstance(case, Case) else case, source)
        where = f"{case.name}, seed {seed}" if case.required else f"{case.name}, {case.shape.id}, seed {seed}"
        try:
            out, *lse = interpreter.call(asked, lse=case.lse)
        except Refused:
            if case.required:
                raise
            continue
        except KernelFailed as failure:
            return f"{failure} ({where})"
        if (out.shape, out.dtype) != (asked.q.shape, asked.q.dtype):
            expected = f"{tuple(asked.q.shape)} of {asked.q.dtype}"
            return f"expected a result {expected}, got {tuple(out.shape)} of {out.dtype} ({where})"
        if found := answer_fault(asked, out, lse[0] if lse else None):
            return f"{found} ({where})"
    return ""


def refuse(source: str) -> None:
    """Refused if the source alone shows that the interpreter cannot run it; what does not parse is not refused."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    if any(f"{module}.".startswith("triton.experimental.gluon.") for module in modules):
        raise Refused("Gluon kernels have no interpreter: gluon.jit compiles even under TRITON_INTERPRET=1")
    if not any(f"{module}.".startswith("triton.") for module in modules):
        raise Refused("does not import triton, so there is nothing to interpret")


def dtype_name(tensor: torch.Tensor) -> Dtype:
    """Name a dtype as shapes do: "f32", "bf16", "f16"."""
    names: dict[str, Dtype] = {f"torch.{name}": short for short, name in DTYPE_NAMES.items()}
    if str(tensor.dtype) not in names:
        raise ValueError(f"dtype {tensor.dtype}: expected one of {', '.join(names)}")
    return names[str(tensor.dtype)]


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All memory that a tensor is a view of."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)


def _view(tensor: torch.Tensor, memory: torch.Tensor) -> Strided:
    header = TensorHeader(tuple(memory.shape), dtype_name(memory))
    return Strided(header, tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Bytes of a contiguous CPU tensor."""
    import torch

    return tensor.view(torch.uint8).numpy().tobytes()


def from_bytes(header: TensorHeader, payload: bytes) -> torch.Tensor:
    """Tensor of a header and its bytes; ValueError if there are too few or too many."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPE_NAMES[header.dtype])
    return torch.frombuffer(bytearray(payload), dtype=dtype).reshape(header.shape)
