"""Everything that a run found: what files of results are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.verdict import Total
from pytest_avo.report.rows import ResultRow


class Unmeasured(msgspec.Struct, frozen=True):
    """What could not be measured, and why."""

    kernel: str
    name: str
    """Name of the item: a shape's id, or what stands for the file."""
    reason: str
    is_machine: bool
    """Whether the machine failed; else the user made a mistake in the file."""

    @property
    def kind(self) -> str:
        return "not evaluated" if self.is_machine else "usage error"


@dataclass(frozen=True, slots=True)
class Results:
    """The rows, the judgements over several shapes, the device, and the folder that paths are relative to."""

    rows: Sequence[ResultRow]
    totals: Sequence[Total]
    fingerprint: Fingerprint
    rootdir: Path
    unmeasured: Sequence[Unmeasured] = ()
    evolution: Mapping[str, Any] | None = None
    """An evolution's run, attempts and totals as plain values; `rows` are those of its best kernel then."""
