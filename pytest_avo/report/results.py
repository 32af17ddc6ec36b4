"""Everything that a run found: what files of results are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.verdict import Total
from pytest_avo.report.rows import ResultRow


@dataclass(frozen=True, slots=True)
class Results:
    """The rows, the judgements over several shapes, the device, and the folder that paths are relative to."""

    rows: Sequence[ResultRow]
    totals: Sequence[Total]
    fingerprint: Fingerprint
    rootdir: Path
