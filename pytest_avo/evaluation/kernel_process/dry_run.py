"""Running a Triton or Gluon kernel's own host code on a machine without its GPU.

Inside `DryRun`, Triton compiles every launch for the target exactly as it would on the card, and records it instead of
executing it. Tensors live on the CPU; the calls of torch.cuda that host code asks about its device answer for an H200.
"""

from __future__ import annotations

import contextlib
import io
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from triton import knobs
from triton.backends.compiler import Language
from triton.backends.nvidia.compiler import CUDABackend
from triton.backends.nvidia.driver import wrap_handle_tensordesc
from triton.compiler import CompiledKernel
from triton.runtime.errors import OutOfResources

from pytest_avo.evaluation.kernel_process.absent_gpu import TARGETS, pretended_device, replace_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Specialisation:
    """One kernel compiled for one set of constants, types and divisibilities; key is equal for equal code.

    constants: names and values, arguments that are 1 among them, which Triton takes for constants. cubin and log: what
    the assembler made of it, and what it said.
    """

    key: str
    kernel: str
    constants: tuple[tuple[str, str], ...]
    num_warps: int
    shared_bytes: int
    cubin: bytes
    log: str


@dataclass(frozen=True, slots=True)
class Launch:
    """A specialisation and the grid it was launched with; grid is None if the device would have refused the launch.

    tried: an autotuner tried it and chose another.
    """

    specialisation: Specialisation
    grid: tuple[int, int, int] | None
    tried: bool = False


class DryRun:
    """Record the launches of code that is imported and called inside `with DryRun("sm90") as run:`.

    It replaces Triton's driver for the whole process and does not put it back: use a process of its own.
    """

    def __init__(self, target: str, *, cost: Callable[[Specialisation], float] = lambda _: 0.0) -> None:
        """cost: what autotuners choose by, the least, since nothing can be timed."""
        if target not in TARGETS:
            raise ValueError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
        self._target = TARGETS[target]
        self._compiled: dict[str, Specialisation] = {}
        self._logs: dict[str, str] = {}
        self._launches: list[Launch] = []
        self._tried: list[Launch] = []
        self._cost = cost
        self._device = contextlib.ExitStack()

    def __enter__(self) -> Self:
        replace_driver(self._target, launcher=partial(_Launcher, self._record), benchmark=self._benchmark)
        knobs.compilation.listener = self._on_compile
        self._device.enter_context(_kept_logs(self._logs))
        self._device.enter_context(pretended_device())
        return self

    def __exit__(self, *exception: object) -> None:
        self._device.close()
        knobs.compilation.listener = None

    def launches(self, call: Callable[[], object]) -> list[Launch]:
        """Run call() and return its launches, one for each different pair of specialisation and grid.

        A launch that needs more shared memory than the device has is among them, without a grid. What autotuners tried
        beside what they chose comes last.
        """
        self._launches.clear()
        self._tried.clear()
        try:
            call()
        except OutOfResources as error:
            key = _launched(error)
            if error.name != "shared memory" or key not in self._compiled:
                raise
            self._launches.append(Launch(self._compiled[key], None))
        launches = dict.fromkeys(self._launches)
        others = dict.fromkeys(launch for launch in self._tried if launch not in launches)
        return [*launches, *(replace(launch, tried=True) for launch in others)]

    def _on_compile(self, *, src: Any, metadata: dict[str, Any], metadata_group: dict[str, str], **_: object) -> None:
        """Triton compiled something, or found it in its cache."""
        if metadata["hash"] not in self._logs:
            raise RuntimeError(f"{metadata['name']} was compiled by another process, which has what the assembler said")
        cubin = next(Path(path) for name, path in metadata_group.items() if name.endswith(".cubin"))
        self._compiled[metadata["hash"]] = Specialisation(
            key=metadata["hash"],
            kernel=metadata["name"],
            constants=_constants(src, metadata),
            num_warps=metadata["num_warps"],
            shared_bytes=metadata["shared"],
            cubin=cubin.read_bytes(),
            log=self._logs[metadata["hash"]],
        )

    def _benchmark(self, call: Callable[[], object], *, quantiles: Sequence[float], **_: object) -> list[float]:
        """Run a configuration once, so that it is compiled, and say what it costs."""
        begun = len(self._launches)
        call()
        self._tried += self._launches[begun:]
        del self._launches[begun:]
        costs = [self._cost(launch.specialisation) for launch in self._tried[-1:]]
        return [sum(costs)] * len(quantiles)

    def _record(self, key: str, grid: tuple[int, int, int]) -> None:
        self._launches.append(Launch(self._compiled[key], grid))


@contextlib.contextmanager
def _kept_logs(logs: dict[str, str]) -> Iterator[None]:
    """Keep what the assembler says of each compilation, by its hash: to run it again would take as long again."""
    make = CUDABackend.make_cubin

    def make_and_keep(backend: CUDABackend, source: str, metadata: dict[str, Any], *rest: object) -> bytes:
        said = io.StringIO()
        with knobs.nvidia.scope(), contextlib.redirect_stdout(said):
            knobs.nvidia.dump_ptxas_log = True
            cubin: bytes = make(backend, source, metadata, *rest)
        logs[metadata["hash"]] = said.getvalue()
        return cubin

    with mock.patch.object(CUDABackend, "make_cubin", make_and_keep):
        yield


def _launched(error: OutOfResources) -> str:
    """The key of the kernel whose launch the error refused; "" where it came from elsewhere.

    Triton raises a copy of its first refusal at every later launch, with nothing in it that tells kernels apart.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    values = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return next((value.hash for value in values if isinstance(value, CompiledKernel)), "")


def _constants(source: Any, metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a kernel was specialised for, as its source in Triton's compiler and its options say."""
    names = source.fn.arg_names
    # The path of a constant is an argument's place, and within a tuple the places that lead to it.
    found = [(names[at] + "".join(f"[{i}]" for i in rest), value) for (at, *rest), value in source.constants.items()]
    if source.language is Language.TRITON and metadata.get("num_stages") is not None:
        found.append(("num_stages", metadata["num_stages"]))
    return tuple((name, getattr(value, "__name__", None) or str(value)) for name, value in found)


class _Launcher:
    """Records a launch. With the parts of Triton's own that host code may keep, to launch without going through it."""

    def __init__(self, record: Callable[[str, tuple[int, int, int]], None], source: Any, metadata: Any) -> None:
        self._key = metadata.hash
        self._record = record
        self.launch_cooperative_grid = metadata.launch_cooperative_grid
        self.launch_pdl = metadata.launch_pdl
        self.launch = wrap_handle_tensordesc(self, dict(source.signature), getattr(metadata, "tensordesc_meta", None))

    def __call__(self, grid_x: int, grid_y: int, grid_z: int, *_: object) -> None:
        self._record(self._key, (grid_x, grid_y, grid_z))
