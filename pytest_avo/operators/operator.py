"""The seam between the run loop and what proposes candidates."""

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
    """One variation step: vary `parent`, knowing the whole lineage, and come back with one candidate."""

    kernel: Kernel
    """The parent's text and what it declares."""
    parent: Attempt
    generation: int
    member: int
    """Which of the generation's candidates this is, from 0."""
    shapes: tuple[Shape, ...]
    """What the candidate will be judged on."""
    view: View
    seed: int
    """Of the run. With generation and member it fixes every choice an operator makes by chance."""
    evaluate: Callable[[str, bool], Mapping[str, Verdict]]
    """evaluate(source, timed) -> shape id -> verdict. Blocks; runs as isolated as the candidate itself will."""
    stopping: threading.Event
    """Set when the run is to end: return as soon as that can be done."""
    say: Callable[[str], None]
    """Show the user one line on what is being done."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate, and what its author expects of it."""

    source: str
    hypothesis: str
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Shape id or "geomean" -> ratio to the parent, above 1 faster; empty when nothing can be said."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    lesson: str = ""


class VariationOperator(Protocol):
    """What proposes candidates. Each member of a generation calls from its own thread."""

    name: str

    def describe(self) -> str:
        """One line for the header of a run: what it is, and what it may spend."""

    def propose(self, task: Task) -> Proposal | None:
        """The next candidate, or None when nothing is left to try, which ends the run.

        InvalidInput when the kernel gives the operator nothing to work on.
        """
