"""The hooks of a project that an evolution calls; hookspecs.py says what each is told and may answer."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_avo import PACKAGE
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict
from pytest_avo.lineage.records import Attempt
from pytest_avo.operators.operator import Proposal, Task


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks that an evolution calls."""

    propose: Callable[[Task], Proposal | None]
    """The next candidate; on a thread of its own. None: nothing is left to try."""
    promote: Callable[[Attempt, Interval, float], bool]
    """Whether a correct candidate lands in its file, by the log-ratio that confirmed it and the noise floor."""
    finish: Callable[[int, int, Mapping[str, Verdict]], None]
    """Told of a generation and a member of it whose candidate was evaluated: shape id -> verdict."""


def where(error: BaseException) -> str:
    """` (FILE, line N)` of the last line of the user's, or of a library's, that an error came through; "" for none."""
    frames = [
        each for each in traceback.extract_tb(error.__traceback__) if not Path(each.filename).is_relative_to(PACKAGE)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
