"""Running a plain Triton kernel on the CPU, in Triton's interpreter, in a process of its own.

Slow and exact in its own way: fit for shapes of a few hundred rows. `interpreter_child` is what the process runs.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    import torch

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Refused(Exception):
    """The kernel cannot be interpreted; the message says why."""


class KernelFailed(Exception):
    """The kernel raised, or its process died or ran out of time; the message says which."""


class TensorHeader(msgspec.Struct, frozen=True):
    """Shape and dtype ("f32", "bf16", "f16") of a tensor whose bytes follow, contiguous."""

    shape: tuple[int, ...]
    dtype: str


class Request(msgspec.Struct, frozen=True):
    """First line of what the child reads; the bytes of q, k and v follow, each laid out (batch, seqlen, heads, dim)."""

    kernel: str
    causal: bool
    scale: float
    tensors: tuple[TensorHeader, TensorHeader, TensorHeader]


class Answer(msgspec.Struct, frozen=True):
    """First line of what the child writes; the bytes of the result follow if there is one."""

    result: TensorHeader | None = None
    refused: str = ""
    failed: str = ""


def interpret(
    kernel: Path,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool,
    scale: float,
    timeout_s: float,
) -> torch.Tensor:
    """Return attention(q, k, v) of the kernel file as the interpreter computes it.

    q, k and v are CPU tensors (batch, heads, seqlen, head_dim) of one dtype: float32, bfloat16 or float16. Raises
    Refused for what cannot be interpreted (Gluon, a file without Triton, a Triton whose interpreter is wrong and could
    not be repaired) and KernelFailed for a kernel that raises or does not end within timeout_s seconds.
    """
    refuse(kernel)
    tensors = [tensor.transpose(1, 2).contiguous() for tensor in (q, k, v)]
    headers = tuple(TensorHeader(tuple(tensor.shape), dtype_name(tensor)) for tensor in tensors)
    request = Request(kernel=str(kernel), causal=causal, scale=scale, tensors=headers)  # type: ignore[arg-type]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "pytest_avo.evaluation.interpreter_child"],
            input=b"".join([msgspec.json.encode(request), b"\n", *map(to_bytes, tensors)]),
            capture_output=True,
            env=os.environ | {"TRITON_INTERPRET": "1"},
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise KernelFailed(f"{kernel}: no result within {timeout_s:g} s in the interpreter") from None
    head, _, payload = finished.stdout.partition(b"\n")
    if not head:
        last = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise KernelFailed(f"{kernel}: the interpreter ended with status {finished.returncode}: {''.join(last)}")
    answer = msgspec.json.decode(head, type=Answer)
    if answer.refused:
        raise Refused(f"{kernel}: {answer.refused}")
    if answer.result is None:
        raise KernelFailed(f"{kernel}: {answer.failed}")
    return from_bytes(answer.result, payload)


def refuse(kernel: Path) -> None:
    """Raise Refused if the source alone shows that the interpreter cannot run it, KernelFailed if it does not parse."""
    try:
        tree = ast.parse(kernel.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise KernelFailed(f"{kernel}: line {error.lineno}: {error.msg}") from None
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    if any(f"{module}.".startswith("triton.experimental.gluon.") for module in modules):
        raise Refused(f"{kernel}: Gluon kernels have no interpreter: gluon.jit compiles even under TRITON_INTERPRET=1")
    if not any(f"{module}.".startswith("triton.") for module in modules):
        raise Refused(f"{kernel}: does not import triton, so there is nothing to interpret")


def dtype_name(tensor: torch.Tensor) -> str:
    """Name a dtype as shapes do: "f32", "bf16", "f16"."""
    names = {f"torch.{name}": short for short, name in DTYPES.items()}
    if str(tensor.dtype) not in names:
        raise ValueError(f"dtype {tensor.dtype}: expected one of {', '.join(names)}")
    return names[str(tensor.dtype)]


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Bytes of a contiguous CPU tensor."""
    import torch

    return tensor.view(torch.uint8).numpy().tobytes()


def from_bytes(header: TensorHeader, payload: bytes) -> torch.Tensor:
    """Tensor of a header and its bytes; ValueError if there are too few or too many."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[header.dtype])
    flat = torch.frombuffer(bytearray(payload), dtype=dtype)
    return flat.reshape(header.shape)
