"""The seam between an evolution and what proposes its candidates."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict
from pytest_avo.lineage.events import Fact
from pytest_avo.lineage.records import Attempt
from pytest_avo.lineage.view import View
from pytest_avo.operators.ledger import Ledger


class OperatorStopped(Exception):
    """The operator stops as the user asked (a budget is spent, a recording ends): the run ends in order, resumable."""


class OperatorFailed(OperatorStopped):
    """What the operator depends on is out of reach: the run ends in order, resumable, but with exit status 3."""


class Unavailable(Exception):
    """A tool that this target or machine does not offer; the message says why."""


class DraftsSpent(Unavailable):
    """Only the evaluations that verify the candidate are left: submit."""


@dataclass(frozen=True, slots=True)
class DraftResult:
    """A draft on one shape: the facts and the verdict on them."""

    evaluation: Evaluation
    verdict: Verdict


Accept = Literal["faster", "match"]


class EvaluateDraft(Protocol):
    """The evaluation tool: same evaluator, same isolation as the items. Blocks; thread-safe."""

    def __call__(self, source: str, shapes: Sequence[Shape], *, timed: bool) -> Mapping[str, DraftResult]:
        """Evaluate a draft on some shapes, timed against the parent or for correctness alone; shape id -> result.

        What is timed is checked on the calls that it claims, and no others, which on a GPU need builds of their own.

        Every result is in the lineage before it is returned, and what the lineage has is not evaluated again.
        EvaluatorError when the machine fails, BudgetExhausted or OperatorStopped when the run must end, DraftsSpent
        when only the evaluations that verify the candidate are left.
        """


class RaceDraft(Protocol):
    """Times a draft anew beside another kernel. Blocks; thread-safe."""

    def __call__(
        self, source: str, shapes: Sequence[Shape], *, against: str, label: str, peer: str
    ) -> Mapping[str, DraftResult]:
        """Fresh interleaved rounds beside the source `against`, which is called `label`, and beside a peer if named.

        Shape id -> result; counted in the budget, and never an answer to EvaluateDraft. Errors are those of
        EvaluateDraft, and InvalidInput for a peer that is not known.
        """


class Diagnose(Protocol):
    """A tool that looks into a draft. Blocks; thread-safe."""

    def __call__(self, source: str, shape: Shape) -> str:
        """What it found, as text for a reader; Unavailable where there is no such tool."""


class CompileReport(Protocol):
    """A tool that shows what a draft compiles to. Blocks; thread-safe."""

    def __call__(self, source: str, shape: Shape, *, function: str = "") -> str:
        """As text for a reader, or the machine code of one function of a CPU kernel; Unavailable where it cannot."""


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
    floor: float
    """Log-ratio below which a difference is noise."""
    accept: Accept
    """What is promoted: what is faster beyond the noise, or also what is no slower."""
    device: str
    folder: Path
    """Where the run keeps its files: transcripts go there."""
    evaluate: EvaluateDraft
    race: RaceDraft
    compile_report: CompileReport | None
    """None where this target has no such tool: none is offered that always says so."""
    profile: Diagnose
    scratch: Callable[[str, str], str]
    """Script and draft -> what the script prints where kernels are evaluated; it counts for nothing."""
    machine: Callable[[], str]
    """Facts of the machine that evaluates."""
    record: Callable[[Fact], None]
    """Add an event to the lineage; a Note for what has no kind of its own."""
    ledger: Ledger
    """Of the whole run: whoever calls a model reserves and settles there; BudgetExhausted may be let through."""
    stopping: threading.Event
    """Set when the run ends: give up."""
    say: Callable[[str], None]
    """Show one line of progress."""
    direction: str = ""
    """What the user wants this member to try; empty where that is left to the operator."""

    @property
    def rule(self) -> str:
        """What its geomean over all shapes against the parent must be for a candidate to be promoted, in words."""
        kinds = dict.fromkeys(kind for shape in self.shapes for kind in shape.inputs)
        each = f", and slower beyond doubt on none of the kinds of timed inputs ({', '.join(kinds)})"
        if len(kinds) == 1:
            each = ""
        if self.accept == "match":
            return f"its estimate at least 1.0000, since this run promotes what is no slower too{each}"
        return f"its lower 99% bound above {math.exp(self.floor):.4f}{each}"


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
    follows: bool = True
    """Whether it is what the step was told to try, where it was told something."""
    failed: str = ""
    """Why the step ended without a candidate; nothing is evaluated then and the attempt counts as failed."""


class VariationOperator(Protocol):
    """Varies a kernel."""

    @property
    def name(self) -> str:
        """What lineage and reports call it."""

    def describe(self) -> str:
        """For the header: what it is and what it may spend."""

    def propose(self, task: Task) -> Proposal | None:
        """The next candidate; None when nothing is left to try, which ends the run.

        InvalidInput for a user's mistake, OperatorStopped or BudgetExhausted where it cannot go on.
        """
