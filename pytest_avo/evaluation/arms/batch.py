"""Calls laid out in memory that is shared with a kernel's process: arguments in one part of it, results in another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from random import Random

import torch

from pytest_avo.core.shape import DTYPE_BYTES, Dtype
from pytest_avo.evaluation.arms.forms import lse_shape
from pytest_avo.evaluation.arms.memory import Memory, Written
from pytest_avo.evaluation.correctness.inputs import Arguments
from pytest_avo.evaluation.correctness.room import ALIGNMENT, GUARD_BYTES, PLACES
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES

TOGETHER_BYTES = 8 << 20
"""Of an argument at most that is copied, or compared, with those of other calls: what is larger takes a GPU longer than
to be asked for it, and is copied faster by itself."""


class Batch:
    """The calls of one slice: what is sent of them, and where their arguments and results are."""

    def __init__(
        self, arguments: Sequence[Arguments], dtype: Dtype, *, guarded: bool, lse: bool = False, first: int = 0
    ) -> None:
        """guarded: all that lies around the arguments is NaN. lse: the log-sum-exp is asked for too.

        first: byte at which the arguments begin, where they are not guarded.
        """
        self.arguments = arguments
        self.dtype = dtype
        self.with_lse = lse
        self.calls: list[dict[str, object]] = []
        self._guarded = guarded
        self._places: list[tuple[int, torch.Tensor]] = []
        self._firsts: list[int] = []
        """Of every call, which place is that of q."""
        self._outputs: list[int] = []
        self._lses: list[int] = []
        self._end, self._out = GUARD_BYTES if guarded else first, 0
        for inputs in arguments:
            self._lay(inputs)

    @classmethod
    def anywhere(cls, arguments: Sequence[Arguments], dtype: Dtype, random: Random, *, place: str) -> Batch:
        """A slice whose arguments begin where chance has it, as they do in models.

        A kernel that prepares for the addresses of its arguments would be timed on ones that it knows. place: kind of
        torch device; on a GPU they begin at the same place, since a graph is of addresses.
        """
        first = ALIGNMENT * random.randrange(PLACES) if place == "cpu" else 0
        return cls(arguments, dtype, guarded=False, first=first)

    def write(self, given: Memory, result: Memory) -> list[Written]:
        """Copy the arguments to where they belong, and make the memory of results such as nobody has written to.

        Returns what must stand there after the calls: the arguments, and the NaN around them where they are guarded.
        """
        if self._guarded:
            given.poison(self._end)
        written = self.places(given, together=given.place == "cuda")
        for place, original in written:
            place.copy_(original)
        result.poison(self._out)
        result.settle()
        return [*written, *self._guards(given)] if self._guarded else written

    def places(self, given: Memory, *, together: bool) -> list[Written]:
        """Where the arguments belong, and they.

        together: q of all calls at once where it lies at regular distances, and so k and v. What a slice of many short
        calls takes of a judge on a GPU is how often it asks.
        """
        columns = [_regular(self._places[first::3]) for first in range(3)] if together else []
        found = []
        for column in columns:
            if column is None:
                return self.places(given, together=False)
            offset, pitch, x = column
            place = given.rows(x.dtype, elements=x.shape[1], offset=offset, rows=len(x), pitch=pitch)
            found.append((place, x))
        return found or [(given.tensor(x.dtype, elements=len(x), offset=offset), x) for offset, x in self._places]

    def row(self, given: Memory, number: int, name: str, index: tuple[int, int, int]) -> torch.Tensor:
        """Where a row of a call's q, k or v, (batch entry, head, position), lies in memory for arguments."""
        argument = "qkv".index(name)
        x, (offset, _) = self.arguments[number].tensors[argument], self._places[self._firsts[number] + argument]
        elements = sum(i * stride for i, stride in zip(index, x.stride(), strict=False))
        return given.tensor(x.dtype, elements=x.shape[-1], offset=offset + elements * x.itemsize)

    def result_words(self, result: Memory) -> torch.Tensor:
        """The memory of all results, element by element, as whole numbers: what was not written is -1."""
        item = DTYPE_BYTES[self.dtype]
        return result.tensor({2: torch.int16, 4: torch.int32}[item], elements=self._out // item, offset=0)

    def result_elements(self, elements: Sequence[Sequence[int]]) -> torch.Tensor:
        """Where in `result_words` some elements of every result are: (calls, elements)."""
        firsts = torch.tensor(self._outputs)[:, None] // DTYPE_BYTES[self.dtype]
        return firsts + torch.tensor(elements)

    def outputs(self, result: Memory) -> torch.Tensor:
        """A copy of the results of all calls, which are of one shape: (calls, batch, heads, seqlen, head_dim)."""
        batch, heads, seqlen, head_dim = self.arguments[0].q.shape
        elements, pitch = self.arguments[0].q.numel(), self._out // len(self.arguments)
        found = result.rows(
            TORCH_DTYPES[self.dtype], elements=elements, offset=0, rows=len(self.arguments), pitch=pitch
        )
        copied = found.clone(memory_format=torch.contiguous_format)
        return copied.view(-1, batch, seqlen, heads, head_dim).transpose(2, 3)

    def output(self, number: int, result: Memory) -> torch.Tensor:
        """A copy of one result: (batch, heads, seqlen, head_dim) in the models' order, or (tokens, heads, head_dim)."""
        q = self.arguments[number].q
        dtype, offset = TORCH_DTYPES[self.dtype], self._outputs[number]
        found = result.tensor(dtype, elements=q.numel(), offset=offset).clone()
        if q.dim() == 3:
            return found.view(q.shape)
        batch, heads, seqlen, head_dim = q.shape
        return found.view(batch, seqlen, heads, head_dim).transpose(1, 2)

    def lse(self, number: int, result: Memory) -> torch.Tensor:
        """A copy of the log-sum-exp that came with one."""
        shape, offset = lse_shape(self.arguments[number]), self._lses[number]
        return result.tensor(torch.float32, elements=math.prod(shape), offset=offset).clone().view(shape)

    def _guards(self, given: Memory) -> list[Written]:
        """The memory before, between and behind the arguments, and the NaN that is there."""
        found, end = [], 0
        for offset, x in [*self._places, (self._end, None)]:
            words = (offset - end) // 2
            found.append((given.tensor(torch.int16, elements=words, offset=end), _untouched(given.place)[:words]))
            end = offset + (0 if x is None else x.nbytes)
        return found

    def _lay(self, inputs: Arguments) -> None:
        """Give a call places behind those of the calls before it."""
        call: dict[str, object] = {
            "function": inputs.function, "dtype": self.dtype, "causal": inputs.causal, "scale": inputs.scale,
            "numbers": inputs.numbers, "out": self._out,
        }  # fmt: skip
        guard = GUARD_BYTES if self._guarded else 0
        self._firsts.append(len(self._places))
        for name, x in zip("qkv", inputs.tensors, strict=True):
            elements = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
            # Of a single call a start that no vector's width divides is part of the layout.
            offset = self._end + (int(x.storage_offset()) * x.itemsize % ALIGNMENT if self._guarded else 0)
            self._places.append((offset, x.as_strided((elements,), (1,))))
            call[name] = {
                "offset": offset, "elements": elements, "shape": list(x.shape), "stride": list(x.stride()),
            }  # fmt: skip
            self._end = _aligned(offset + elements * DTYPE_BYTES[self.dtype] + guard)
        tables: dict[str, object] = {}
        for name, table in inputs.tables.items():
            self._places.append((self._end, table.flatten()))
            tables[name] = {"offset": self._end, "shape": list(table.shape)}
            self._end = _aligned(self._end + table.nbytes) + (ALIGNMENT if self._guarded else 0)
        call["tables"] = tables
        self._outputs.append(self._out)
        self._out = _aligned(self._out + inputs.q.numel() * DTYPE_BYTES[self.dtype])
        if self.with_lse:
            call["lse"] = self._out
            self._lses.append(self._out)
            self._out = _aligned(self._out + 4 * math.prod(lse_shape(inputs)))
        self.calls.append(call)


@cache
def _untouched(place: str) -> torch.Tensor:
    """What a guard holds, as whole numbers of 16 bits; as long as the longest."""
    return torch.full(((GUARD_BYTES + 2 * ALIGNMENT) // 2,), -1, dtype=torch.int16, device=place)


def _regular(column: Sequence[tuple[int, torch.Tensor]]) -> tuple[int, int, torch.Tensor] | None:
    """Offset, distance in bytes and a view (calls, elements) of one argument of all calls, if that is how they lie."""
    if len(column) < 2:
        return None
    (offset, first), (second, after) = column[:2]
    pitch, step = second - offset, after.storage_offset() - first.storage_offset()
    start, elements = first.storage_offset(), first.numel()
    storage = first.untyped_storage().data_ptr()
    for number, (place, x) in enumerate(column):
        if (place, x.storage_offset(), x.numel()) != (offset + number * pitch, start + number * step, elements):
            return None
        if x.untyped_storage().data_ptr() != storage or x.dtype != first.dtype:
            return None
    if step < elements or elements * first.itemsize > TOGETHER_BYTES:
        return None
    return offset, pitch, first.as_strided((len(column), elements), (step, 1))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
