"""Python processes of this package: what they may import, whatever lies in the folder that the user is in.

With -P the current folder is not searched. A `nt.py` or a `random.py` beside the user's kernels would else be executed
in place of the standard library's, outside of any sandbox.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pytest_avo import PACKAGE

NOBODY = {"USER": "avo", "LOGNAME": "avo"}
"""torch asks for the user's name, and a container's user may have none."""


@contextmanager
def importing() -> Iterator[None]:
    """Import in this block what is large, as torch is: a process that does takes a third less time in all.

    Nothing of it ever becomes garbage, so that nobody need look for any in it, neither meanwhile nor at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module; its environment wants `search_path` as PYTHONPATH."""
    return [sys.executable, "-P", "-B", "-m", module, *arguments]


def elsewhere(module: str) -> list[str]:
    """The command that runs a module's main with the arguments after it, whatever folder and environment it is in.

    Unlike `command` it wants nothing of the environment, which belongs to somebody else there.
    """
    code = f"import sys; sys.path[:0] = {folders()!r}; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-E", "-P", "-c", code]


def search_path() -> str:
    """A PYTHONPATH with which this package, and what the user's own one leads to, is found from any folder."""
    return os.pathsep.join(folders())


def folders(variable: str | None = None, installed: Iterable[str] | None = None) -> list[str]:
    """The folders of it. Those of the user's that mean the current folder are left out.

    variable: the user's PYTHONPATH. installed: folders that Python searches by itself, after its standard library.
    """
    given = os.environ.get("PYTHONPATH", "") if variable is None else variable
    paths = sysconfig.get_paths()
    searched = {paths["purelib"], paths["platlib"]} if installed is None else set(installed)
    own = str(PACKAGE.parent)
    found = [*([] if own in searched else [own]), *(each for each in given.split(os.pathsep) if os.path.isabs(each))]
    return list(dict.fromkeys(found))
