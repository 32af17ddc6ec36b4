"""The seam between an evolution and what proposes its candidates: `Task` goes in, a `Proposal` comes out.

An operator of your own implements `VariationOperator`; see "How to add" in CONTRIBUTING.md.
"""

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
    """The evaluation tool: the evaluator and the isolation of the items. Blocks; thread-safe."""

    def __call__(self, source: str, shapes: Sequence[Shape], *, timed: bool) -> Mapping[str, DraftResult]:
        """Evaluate a draft on some shapes, timed against the parent or for correctness alone; shape id -> result.

        A draft that is timed is checked on no calls but those it claims: on a GPU others need builds of their own.

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
        """What it found, as text to be read; Unavailable where there is no such tool."""


class CompileReport(Protocol):
    """A tool that shows what a draft compiles to. Blocks; thread-safe."""

    def __call__(self, source: str, shape: Shape, *, function: str = "") -> str:
        """The report as text to be read; with `function` the machine code of that function of a CPU kernel.

        Unavailable where this target or machine has no such report.
        """


@dataclass(frozen=True, slots=True)
class Task:
    """What an operator is asked: a variation of `kernel`. With it come all that is known and the tools of a step."""

    kernel: Kernel
    """The kernel to vary."""
    parent: Attempt
    """The same as the lineage has it."""
    generation: int
    """From 1; generation 0 is the seed."""
    member: int
    """Which of the population's kernels is varied, from 0."""
    shapes: tuple[Shape, ...]
    """Those that a candidate is evaluated on."""
    view: View
    """The run's lineage, read-only."""
    seed: int
    """The run's: an operator with the same seed and lineage makes the same choices."""
    floor: float
    """Log-ratio below which a difference is noise."""
    accept: Accept
    """What is promoted: what is faster beyond the noise, or also what is no slower."""
    device: str
    """The device and its versions, in words."""
    folder: Path
    """Where the run keeps its files: transcripts go there."""
    evaluate: EvaluateDraft
    race: RaceDraft
    compile_report: CompileReport | None
    """None where this target has no compile report at all."""
    profile: Diagnose
    scratch: Callable[[str, str], str]
    """Called with a Python script and a draft's source: what the script prints where kernels are evaluated."""
    machine: Callable[[], str]
    """Facts of the machine that evaluates, a line each; Unavailable where nobody can tell them."""
    record: Callable[[Fact], None]
    """Adds a fact to the lineage; a `Note` for what has no type of its own."""
    ledger: Ledger
    """The run's spending and limits: reserve before a model is called, settle afterwards; let BudgetExhausted pass."""
    stopping: threading.Event
    """Set when the run ends: `propose` should return soon."""
    say: Callable[[str], None]
    """Shows one line of progress to the user."""
    direction: str = ""
    """What the user wants this member to try, in words; "" where that is left to the operator."""

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
    """The whole text of the candidate's file."""
    hypothesis: str
    """Why it should be faster, in a sentence or two."""
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Shape id or "geomean" -> predicted ratio to the parent."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the user's currency; 0 where no prices are known."""
    lesson: str = ""
    """What the step taught, for later ones."""
    follows: bool = True
    """Whether it does what the step was told to try, if it was told something."""
    failed: str = ""
    """Why the step ended without a candidate, else "". Nothing is evaluated then, and the attempt counts as failed."""


class VariationOperator(Protocol):
    """Varies a kernel. `propose` is called by several threads at once where a population has several members."""

    @property
    def name(self) -> str:
        """Its name in the lineage and in reports."""

    def describe(self) -> str:
        """One line for the header of a run: what it is and what it may spend."""

    def propose(self, task: Task) -> Proposal | None:
        """The next candidate; None when nothing is left to try, which ends the run. Blocks, for hours if need be.

        InvalidInput for a user's mistake (exit status 4); OperatorStopped or BudgetExhausted to end the run in order,
        OperatorFailed where something it depends on is out of reach (exit status 3). Any other error ends the run with
        exit status 3. Whatever was finished is kept, and the run can be resumed.
        """
