"""What the user chose to compare with, and what is to fail."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_avo.gate.rules import Rules


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Choices about baselines."""

    compare: str | None
    """`git:REF`; None: kernels are compared with their peers alone."""
    rules: Rules
    """Empty: comparing only reports."""
    lenient: bool
    """A shape that the baseline lacks does not fail."""
