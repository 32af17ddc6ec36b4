"""The seam between an evolution and what proposes its candidates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict
from pytest_avo.lineage.records import Attempt
from pytest_avo.lineage.view import View


@dataclass(frozen=True, slots=True)
class Task:
    """What an operator is asked: the next candidate after `kernel`, in the light of the lineage."""

    kernel: Kernel
    """The parent."""
    parent: Attempt
    generation: int
    member: int
    shapes: tuple[Shape, ...]
    view: View
    seed: int
    """Of the run: the same seed and lineage give the same choices."""
    evaluate: Callable[[str, bool], Mapping[str, Verdict]]
    """Evaluate a draft's source, timed against the parent or not; blocks, thread-safe, same isolation as the items."""
    stopping: threading.Event
    """Set when the run ends: give up."""
    say: Callable[[str], None]
    """Show one line of progress."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate and why it should be better. Predicted effects are ratios, above 1 faster."""

    source: str
    hypothesis: str
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Shape id or "geomean" -> predicted ratio to the parent."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    lesson: str = ""


class VariationOperator(Protocol):
    """Varies a kernel."""

    @property
    def name(self) -> str:
        """What lineage and reports call it."""

    def describe(self) -> str:
        """For the header: what it is and what it may spend."""

    def propose(self, task: Task) -> Proposal | None:
        """The next candidate; None when nothing is left to try, which ends the run. InvalidInput for a user's mistake."""
