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
_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Assembly:
    """What one run of ptxas produced; spills and opcodes are summed over all functions of the module."""

    registers: int
    spill_stores_bytes: int
    spill_loads_bytes: int
    wgmma_serialized: bool
    opcodes: Counter[str]


def assemble(ptx: str, *, arch: str, options: tuple[str, ...] = ()) -> Assembly:
    """Assemble PTX for arch ("sm_90a") with the ptxas that Triton uses, and read its log and the machine code.

    Raises CalledProcessError when ptxas refuses the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx, encoding="utf-8")
        command = [knobs.nvidia.ptxas.path, "-v", *options, f"--gpu-name={arch}", str(source), "-o", str(binary)]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        command = [knobs.nvidia.nvdisasm.path, "-c", str(binary)]
        sass = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return read(log, sass)


def read(log: str, sass: str) -> Assembly:
    """Read the log of `ptxas -v` and the listing of `nvdisasm -c`."""
    spills = [(int(stores), int(loads)) for stores, loads in _SPILLS.findall(log)]
    return Assembly(
        registers=max((int(count) for count in _REGISTERS.findall(log)), default=0),
        spill_stores_bytes=sum(stores for stores, _ in spills),
        spill_loads_bytes=sum(loads for _, loads in spills),
        # One of the warnings C7510 to C7520; each gives another reason for the same loss.
        wgmma_serialized="wgmma.mma_async instructions are serialized" in log,
        opcodes=Counter(_OPCODE.findall(sass)),
    )
