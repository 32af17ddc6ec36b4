"""Calls of the tools over the working draft: their arguments, and what a model is told about each."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from pytest_avo.operators.tools.lineage_tools import LineNumber, Version
from pytest_avo.operators.tools.tools import ToolArguments


class ReadDraft(ToolArguments, frozen=True):
    """Read the working draft."""

    first_line: LineNumber = 0
    last_line: LineNumber = 0


class Change(ToolArguments, frozen=True):
    """One exact replacement."""

    search: Annotated[str, Meta(description="text that occurs exactly once in the draft")]
    replacement: str


class EditDraft(ToolArguments, frozen=True):
    """Make exact replacements in the draft."""

    replacements: Annotated[list[Change], Meta(min_length=1, description="made in order, all of them or none")]


class WriteDraft(ToolArguments, frozen=True):
    """Replace the whole draft."""

    source: Annotated[str, Meta(description="the whole new file")]


class ResetDraft(ToolArguments, frozen=True):
    """Start the draft over from a version of the lineage."""

    version: Version = "incumbent"


class EvaluateDraft(ToolArguments, frozen=True):
    """Check the draft on real inputs in an isolated process and, if asked, time it beside the incumbent."""

    shapes: Annotated[list[str], Meta(description="shape ids, or smallest; none means all shapes")] = field(
        default_factory=list
    )
    timed: Annotated[
        bool,
        Meta(description="time it beside the incumbent, checked on what it claims alone; else calls beside are too"),
    ] = False


class RaceDraft(ToolArguments, frozen=True):
    """Time the draft anew, in fresh rounds, beside any version or a peer. Counts as an evaluation of each shape."""

    against: Annotated[str, Meta(description="seed, incumbent, a name as in g0007, or a peer")] = "incumbent"
    shapes: Annotated[list[str], Meta(description="shape ids, or smallest; none means all shapes")] = field(
        default_factory=list
    )


OneShape = Annotated[str, Meta(description="a shape id; empty for the first shape")]


class CompileReport(ToolArguments, frozen=True):
    """Show what the draft or a version compiles to.

    Of a GPU kernel registers, spills, shared memory, instructions that matter; of C++ on a CPU loops that were
    vectorised or not and why, spills, and the machine code of a function.
    """

    shape: OneShape = ""
    version: Annotated[str, Meta(description="a version to look at instead of the draft")] = ""
    function: Annotated[str, Meta(description="CPU only: show the machine code of functions with this name")] = ""


class ProfileDraft(ToolArguments, frozen=True):
    """Show where the draft's time goes on one shape."""

    shape: OneShape = ""


class RunScratch(ToolArguments, frozen=True):
    """Run a Python script beside the draft, on the machine that evaluates, and see what it prints.

    It can `import draft` and torch, time and compare things, call compilers; a minute at most. It counts for nothing
    and costs no evaluation.
    """

    script: Annotated[str, Meta(min_length=1, description="Python source")]


class MachineFacts(ToolArguments, frozen=True):
    """Show the machine that evaluates: instruction sets, caches, measured rates, compilers, libraries, load."""


class Submit(ToolArguments, frozen=True):
    """End the step with the draft as its candidate. The harness then verifies it on all shapes."""

    hypothesis: Annotated[
        str, Meta(min_length=10, max_length=1000, description="what limits the kernel and what you changed")
    ]
    predicted: Annotated[
        dict[str, float],
        Meta(description="shape id or geomean -> ratio of incumbent's time to the draft's, above 1 is faster"),
    ] = field(default_factory=dict)
    followed: Annotated[
        bool, Meta(description="false where a direction was suggested and the candidate does something else")
    ] = True
