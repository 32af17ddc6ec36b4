"""What a kernel's C++ compiles to where it runs: loops vectorised or not, registers spilled, machine code.

    python -m pytest_avo.evaluation.diagnosis.host_build KERNEL.py --shape JSON [--function NAME] [--scratch DIR]

The kernel is called once with compilers on its PATH that keep what they say of loops, and a copy of what they build.
Compilers are found by name, as kernels call them: g++, gcc, c++, cc, clang++, clang.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_avo.core.disk.files import write_command
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.confined import command_line, confine, describe, load_attention, own_output
from pytest_avo.evaluation.linux.python import importing

LIMIT_S = 120.0
COMPILERS = ("g++", "gcc", "c++", "cc", "clang++", "clang")
BUILT = "avo-built"
"""Folder, in the kernel's private one, of what the compilers said and built."""
NOTES_SHOWN, FUNCTIONS_SHOWN, LINES_SHOWN = 12, 8, 90
_RECORDING = """#!/bin/sh
one="$(mktemp -d '{folder}/build.XXXXXX')"
case "$('{real}' --version)" in
  *clang*) '{real}' "$@" -Rpass=loop-vectorize -Rpass-missed=loop-vectorize 2> "$one/said" ;;
  *) '{real}' "$@" -fopt-info-vec-optimized-missed="$one/loops" 2> "$one/said" ;;
esac
status=$?
cat "$one/said" >&2
last=
for word in "$@"; do
  [ "$last" = -o ] && cp "$word" "$one/binary" 2> /dev/null
  last="$word"
done
exit $status
"""
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(?:[0-9a-f]{2} )*\s*\t?([a-z]\S*)\s*(.*)$")
_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_VECTOR = re.compile(r"%?[xyz]mm\d+")
_STACK = re.compile(r"\(%r[sb]p|\[r[sb]p")
_JUMP = re.compile(r"^j\w+$|^loop")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    opcode: str
    operands: str

    @property
    def text(self) -> str:
        return f"{self.opcode} {self.operands}".rstrip()

    @property
    def is_spill(self) -> bool:
        """Whether it moves a vector register to or from the stack."""
        return "mov" in self.opcode and bool(_VECTOR.search(self.operands) and _STACK.search(self.operands))

    @property
    def is_product(self) -> bool:
        """Whether it multiplies vectors."""
        return bool(re.match(r"v?f(n?m)(add|sub)\w*p[sdh]|v?mulp[sd]|vdpbf16ps|tdp", self.opcode))


def host_report(kernel: Kernel, shape: Shape, *, function: str, confined: bool) -> str:
    """What the compilers said of a kernel, and what they made; or the machine code of one function.

    EvaluatorError where the kernel fails, or takes LIMIT_S.
    """
    arguments = ["--shape", msgspec.json.encode(shape).decode(), "--function", function]
    with Child("host_build", kernel, confined=confined, arguments=arguments) as child, child.within(LIMIT_S):
        text = child.answers.read().decode(errors="replace")
        if child.status():
            raise EvaluatorError(f"{kernel.path.name}: no compile report: {child.last_words()}")
        if not child.in_time:
            raise EvaluatorError(f"{kernel.path.name}: no compile report within {LIMIT_S:g} s")
    return text.rstrip()


def main() -> int:
    """Run the command line."""
    parser = command_line("host_build")
    parser.add_argument("--shape", required=True, help="as JSON")
    parser.add_argument("--function", default="", help="show its machine code")
    arguments = parser.parse_args()
    with importing():
        from pytest_avo.evaluation.correctness.inputs import Case, draw
        from pytest_avo.evaluation.correctness.noise import generator

    inputs = draw(Case("compile", msgspec.json.decode(arguments.shape, type=Shape)), generator(1, "cpu"))
    confine(arguments.scratch)
    folder = Path.cwd() / BUILT
    record(folder)
    with own_output() as output:
        try:
            load_attention(arguments.kernel)(*inputs.tensors, causal=inputs.causal, scale=inputs.scale)
        except Exception as error:
            sys.stderr.write(f"{describe(error)}\n")
            return 1
        output.write("\n".join(report(folder, arguments.function)).encode())
    return 0


def record(folder: Path) -> None:
    """Put compilers on this process's PATH that keep in `folder` what they say and build."""
    commands = folder / "bin"
    commands.mkdir(parents=True)
    for name in COMPILERS:
        if real := shutil.which(name):
            write_command(commands / name, _RECORDING.format(folder=folder, real=real))
    os.environ["PATH"] = os.pathsep.join([str(commands), os.environ.get("PATH", "")])


def report(folder: Path, function: str) -> Iterator[str]:
    """The lines of a report on all that was built, in the order of the builds."""
    builds = sorted(folder.glob("build.*"), key=lambda each: each.stat().st_mtime_ns)
    if not builds:
        yield "nothing was compiled: the kernel calls torch's operations, which are compiled already"
        return
    for build in builds:
        functions = dict(_disassembled(build / "binary"))
        if function:
            yield from _listed(functions, function)
            continue
        yield from _notes(build)
        yield from table(functions)


def _notes(build: Path) -> Iterator[str]:
    """Loops that were vectorised, and those that were not with the reason, each once."""
    texts = [(build / name).read_text(errors="replace") for name in ("loops", "said") if (build / name).is_file()]
    lines = list(dict.fromkeys(line for text in texts for line in text.splitlines()))
    done = [line for line in lines if "optimized: loop" in line or "remark: vectorized" in line]
    missed = [line for line in lines if "couldn't vectorize loop" in line or "loop not vectorized" in line]
    why = [line.replace("missed: not vectorized: ", "") for line in lines if "missed: not vectorized:" in line]
    yield from _some(f"loops vectorised: {len(done)}", done)
    yield from _some(f"loops not vectorised: {len(missed)}" + ("; why" if why else ""), why or missed)


def _some(head: str, lines: list[str]) -> Iterator[str]:
    yield head
    yield from (f"  {line}" for line in lines[:NOTES_SHOWN])
    if len(lines) > NOTES_SHOWN:
        yield f"  ... {len(lines) - NOTES_SHOWN} more"


def table(functions: dict[str, list[Instruction]]) -> Iterator[str]:
    """A row for each function that works on vectors, those with the most products in their loops first."""
    rows = []
    for name, code in functions.items():
        inner = [instruction for loop in innermost(code) for instruction in loop]
        wide = max((match for each in code for match in _VECTOR.findall(each.operands)), default="")
        products = sum(each.is_product for each in inner)
        spills, all_spills = (sum(each.is_spill for each in part) for part in (inner, code))
        calls = sum(each.opcode.startswith("call") for each in inner)
        if wide:
            width = {"x": 128, "y": 256, "z": 512}[wide.lstrip("%")[0]]
            rows.append(
                (
                    products,
                    f"{name[:60]:<60} {len(code):>6} {width:>6} {products:>9} {spills:>7} {all_spills:>6} {calls:>6}",
                )
            )
    if not rows:
        yield "no function of what was built uses a vector register"
        return
    yield f"{'function':<60} {'instr.':>6} {'bits':>6} {'products':>9} {'spills':>7} {'in all':>6} {'calls':>6}"
    yield from (row for _, row in sorted(rows, key=lambda pair: -pair[0])[:FUNCTIONS_SHOWN])
    yield "(products, spills of vector registers, and calls: in innermost loops; name a function to see its code)"


def innermost(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """The loops that hold no other: from the target of a jump back to the jump."""
    places = {instruction.address: number for number, instruction in enumerate(code)}
    spans = set()
    for number, instruction in enumerate(code):
        target = re.match(r"([0-9a-f]+)\b", instruction.operands) if _JUMP.match(instruction.opcode) else None
        start = places.get(int(target[1], 16)) if target else None
        if start is not None and start <= number:
            spans.add((start, number + 1))
    inner = [x for x in spans if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in spans)]
    return [list(code[start:end]) for start, end in sorted(inner)]


def _listed(functions: dict[str, list[Instruction]], wanted: str) -> Iterator[str]:
    """The machine code of the functions with a text in their names, loops marked."""
    chosen = {name: code for name, code in functions.items() if wanted in name}
    if not chosen:
        yield f"no function has {wanted!r} in its name: there are {', '.join(list(functions)[:40])}"
    for name, code in chosen.items():
        inside = {each.address for loop in innermost(code) for each in loop}
        yield f"{name}: {len(code)} instructions; | marks innermost loops"
        yield from (
            f"{'|' if each.address in inside else ' '} {each.address:x}: {each.text}" for each in code[:LINES_SHOWN]
        )
        if len(code) > LINES_SHOWN:
            hot = max(innermost(code), key=lambda loop: sum(each.is_product for each in loop), default=[])
            yield f"... {len(code) - LINES_SHOWN} more; its innermost loop with the most products:"
            yield from (f"| {each.address:x}: {each.text}" for each in hot[:LINES_SHOWN])


def _disassembled(binary: Path) -> Iterator[tuple[str, list[Instruction]]]:
    objdump = shutil.which("objdump")
    if objdump is None or not binary.is_file():
        return
    command = [objdump, "-d", "-C", "--no-show-raw-insn", str(binary)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace").stdout
    yield from disassembled(text)


def disassembled(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """The functions of a listing by `objdump -d`, without those of the linker."""
    name, code = "", list[Instruction]()
    for line in text.splitlines():
        if head := _FUNCTION.match(line):
            if name and code:
                yield name, code
            name, code = ("" if "@plt" in head[1] or head[1].startswith("_") else head[1]), []
        elif found := _INSTRUCTION.match(line):
            code.append(Instruction(int(found[1], 16), found[2], found[3].strip()))
    if name and code:
        yield name, code


if __name__ == "__main__":
    sys.exit(main())
