"""What the user chose to store and to compare with, and what is to fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_avo.gate.rules import Rules


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Choices about baselines."""

    compare: str | None
    """`git:REF`, a path, or the name of a stored baseline; None: kernels are compared with their peers alone."""
    rules: Rules
    """Empty: comparing only reports."""
    lenient: bool
    """A shape that the baseline lacks does not fail."""
    allow_mismatch: bool
    """Compare with a baseline of another machine or other versions all the same."""
    folder: Path
    """Where baselines are stored by name."""
    save: Path | None
    """Where to store this run's results as a baseline."""
