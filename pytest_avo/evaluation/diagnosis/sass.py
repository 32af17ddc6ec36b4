"""Reading what ptxas and nvdisasm say about a compiled GPU function."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from triton import knobs

_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
# "/*0190*/   @!P0 BRA `(.L_x_2) ;": the opcode after the address and an optional predicate, modifiers cut off.
_OPCODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
_LABEL = re.compile(r"\s*(\.L_\w+):")
_TARGET = re.compile(r"(\.L_\w+|0x[0-9a-f]+)\)?\s*;")  # nvdisasm names a label, cuobjdump an address
_MATRIX_PRODUCTS = {"HGMMA", "HMMA", "IGMMA", "QGMMA", "IMMA", "QMMA", "DMMA"}
_LOCAL = {"LDL", "STL"}


@dataclass(frozen=True, slots=True)
class Assembly:
    """What one run of ptxas produced; spills and opcodes are summed over all functions of the module.

    hot_local: loads and stores of local memory in the innermost loops that multiply matrices, or wherever they are if
    there is no such loop.
    """

    registers: int
    spill_stores_bytes: int
    spill_loads_bytes: int
    wgmma_serialized: bool
    opcodes: Counter[str]
    hot_local: int


def assembly_of(log: str, cubin: bytes) -> Assembly:
    """Read the log of `ptxas -v`, and the machine code that it made."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        command = [knobs.nvidia.nvdisasm.path, "-c", str(binary)]
        return read(log, subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read(log: str, sass: str) -> Assembly:
    """Read the log of `ptxas -v` and the listing of `nvdisasm -c`."""
    spills = [(int(stores), int(loads)) for stores, loads in _SPILLS.findall(log)]
    code, loops = _code(sass)
    return Assembly(
        registers=max((int(count) for count in _REGISTERS.findall(log)), default=0),
        spill_stores_bytes=sum(stores for stores, _ in spills),
        spill_loads_bytes=sum(loads for _, loads in spills),
        # One of the warnings C7510 to C7520; each gives another reason for the same loss.
        wgmma_serialized="wgmma.mma_async instructions are serialized" in log,
        opcodes=Counter(code),
        hot_local=_hot_local(code, loops),
    )


def _code(sass: str) -> tuple[list[str], set[tuple[int, int]]]:
    """The opcodes of a listing, and the loops among them, first and last instruction: a branch back is one."""
    code: list[str] = []
    places: dict[str, int] = {}
    loops: set[tuple[int, int]] = set()
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            places[label[1]] = len(code)
        elif opcode := _OPCODE.search(line):
            places[f"0x{opcode[1].lstrip('0') or '0'}"] = len(code)
            target = _TARGET.search(line) if opcode[2] == "BRA" else None
            if target and target[1] in places:
                loops.add((places[target[1]], len(code)))
            code.append(opcode[2])
    return code, loops


def _hot_local(code: list[str], loops: set[tuple[int, int]]) -> int:
    """Of the loops around a matrix product, those that hold no other such loop count."""
    busy = {(start, end) for start, end in loops if _MATRIX_PRODUCTS.intersection(code[start:end])}
    inner = [x for x in busy if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in busy)]
    spans = inner or [(0, len(code))]
    return len({i for start, end in spans for i in range(start, end) if code[i] in _LOCAL})
