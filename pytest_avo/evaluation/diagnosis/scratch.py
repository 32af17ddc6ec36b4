"""A few lines of Python run beside a draft, to see what they print. Nothing of it is a measurement that counts.

    python -m pytest_avo.evaluation.diagnosis.scratch SCRIPT.py [--gpu] [--scratch DIR]

The script finds the draft as the module `draft`. It runs confined as a kernel does: no network, no file outside of its
own folder, and for LIMIT_S at most.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from pytest_avo.core.kernel import Kernel
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.confined import command_line, confine
from pytest_avo.evaluation.linux.python import importing

LIMIT_S = 60.0
MOST_BYTES = 8000
"""How much of the output is kept: its end."""
DRAFT = "draft"


def run_scratch(
    script: str, draft: str, *, confined: bool, gpu: bool = False, environment: Mapping[str, str] | None = None
) -> str:
    """What a script prints, standard error too, and how it ended."""
    kernel = Kernel(path=Path("scratch.py"), source=script, claim=None, tunables=(), fault="")
    arguments = ["--gpu"] if gpu else []
    with (
        Child("scratch", kernel, confined=confined, arguments=arguments, environment=environment) as child,
        child.within(LIMIT_S),
    ):
        (child.scratch / f"{DRAFT}.py").write_text(draft, encoding="utf-8")
        try:
            child.requests.write(b"go\n")
            child.requests.close()
        except BrokenPipeError:
            pass  # how it ended is said below
        status = child.status()
        said = child.end_of_words(MOST_BYTES).rstrip()
        if not child.in_time:
            ended = f"it was ended after {LIMIT_S:g} s"
        elif status < 0:
            ended = f"signal {-status} ended it"
        else:
            ended = f"exit status {status}"
    return f"{said}\n({ended})".lstrip()


def main() -> int:
    """Run the command line."""
    parser = command_line("scratch")
    parser.add_argument("--gpu", action="store_true", help="let it use the GPU")
    arguments = parser.parse_args()
    with importing():
        import torch  # noqa: F401 - a confined process finds it loaded

    sys.stdin.buffer.readline()  # the draft is in place
    confine(arguments.scratch, gpu=arguments.gpu)
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    try:
        runpy.run_path(str(arguments.kernel), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.stdout.flush()
        lines = traceback.format_exc().splitlines()
        sys.stderr.write("\n".join([lines[0], *_of_script(lines[1:], str(arguments.kernel))]) + "\n")
        return 1
    finally:
        sys.stdout.flush()
    return 0


def _of_script(lines: list[str], script: str) -> list[str]:
    """A traceback from the script's own first frame on."""
    first = next((number for number, line in enumerate(lines) if script in line), 0)
    return lines[first:]


if __name__ == "__main__":
    sys.exit(main())
