"""The compile report of a kernel: made in a confined process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_avo import PACKAGE
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.text_form import TextForm
from pytest_avo.evaluation.diagnosis.compile import Record

LIMIT_S = 600.0


def compiled_records(kernel: Kernel, shapes: Sequence[Shape], *, target: str, confined: bool) -> list[Record]:
    """What a kernel launches on shapes, compiled in a process of its own that has no key and no GPU.

    EvaluatorError when that process ends without a report, or not within LIMIT_S.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-avo-compile-") as scratch:
        copy = Path(scratch) / "kernel.py"
        copy.write_bytes(TextForm().encoded(kernel.source))
        command = [sys.executable, "-m", "pytest_avo.evaluation.diagnosis.compile", str(copy)]
        command += ["--target", target, "--shapes-json", "-"]
        command += ["--scratch", scratch] if confined else []
        private = {"HOME": scratch, "TMPDIR": scratch, "TRITON_CACHE_DIR": scratch, "LC_ALL": "C.UTF-8"}
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        try:
            found = subprocess.run(
                command,
                input=msgspec.json.encode(list(shapes)),
                capture_output=True,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, **private},
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise EvaluatorError(f"{kernel.path.name}: no compile report within {LIMIT_S:g} s") from None
    if found.returncode:
        last = found.stderr.decode(errors="replace").strip().splitlines()
        raise EvaluatorError(f"{kernel.path.name}: the compile report ended early: {last[-1] if last else ''}")
    return [msgspec.json.decode(line, type=Record) for line in found.stdout.splitlines()]
