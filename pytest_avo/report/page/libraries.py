"""Libraries that pages are made with, and that not every installation has."""

from __future__ import annotations

from importlib.util import find_spec

from pytest_avo.core.errors import InvalidInput

LIBRARIES = ("jinja2", "pygments", "drawsvg")


def check_libraries(asked: str, libraries: tuple[str, ...] = LIBRARIES, *, extra: str = "report") -> None:
    """InvalidInput where a library is absent that `asked`, an option or a command, needs."""
    absent = [name for name in libraries if find_spec(name) is None]
    if absent:
        raise InvalidInput(f"{asked}: needs {', '.join(absent)}: pip install 'pytest-avo[{extra}]'")
