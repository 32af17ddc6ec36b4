"""The records of a lineage. Times are ISO 8601 in UTC; gains are log-ratios, above zero faster."""

from __future__ import annotations

from typing import Literal

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.stats import Interval

Purpose = Literal["screen", "confirm", "land", "draft"]
"""screen: the attempt against its parent; confirm: once more in fresh processes; land: against the kernel in the file,
where that is not the parent; draft: an agent's own question."""
STAGES: tuple[Purpose, ...] = ("screen", "confirm", "land")
"""What a candidate itself is measured for, one after the other."""

Status = Literal[
    "seed",
    "promoted",
    "kept",
    "same",
    "slower",
    "ambiguous",
    "incorrect",
    "crashed",
    "timeout",
    "rejected",
    "unsupported",
    "duplicate",
    "failed",
]
"""promoted: now in the kernel's file; kept: faster than its parent, but not than the kernel in the file."""
GEOMEAN = "geomean"
"""Key of a prediction that speaks of all shapes together."""


class Run(msgspec.Struct, frozen=True):
    """One evolution of one kernel. A resumed run is the same run."""

    id: int
    kernel: str
    """Path relative to the rootdir."""
    target: str
    operator: str
    seed: int
    shapes: tuple[str, ...]
    fingerprint: Fingerprint
    started: str
    settings: dict[str, str]


class Attempt(msgspec.Struct, frozen=True):
    """One candidate and why it was proposed. Generation 0 holds the seed, the only attempt without a parent."""

    id: int
    run: int
    generation: int
    member: int
    island: int
    parent: int | None
    digest: str
    operator: str
    hypothesis: str
    predicted: dict[str, float]
    """Shape id or "geomean" -> predicted ratio to the parent, above 1 faster."""
    created: str


class StoredEvaluation(msgspec.Struct, frozen=True):
    """The facts about one source on one shape. `digest` is the attempt's own, but for the drafts made on top of it."""

    attempt: int
    purpose: Purpose
    digest: str
    evaluation: Evaluation


class AttemptOutcome(msgspec.Struct, frozen=True):
    """How an attempt ended, what it gained over its parent, and what it cost. Written once, last of all."""

    attempt: int
    status: Status
    reason: str = ""
    gain: Interval | None = None
    """Gain over the parent by the screening: biased upwards for a winner, since it was selected by it."""
    confirmed: Interval | None = None
    """Gain over the parent by the confirmation alone."""
    over: int | None = None
    """The attempt that it was compared with to land in the kernel's file, where that is not its parent."""
    landing: Interval | None = None
    """Gain over that version."""
    lesson: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of the prices the user gave."""
    seconds: float = 0.0
    """Wall time from proposal to outcome."""

    @property
    def step(self) -> float | None:
        """Log-ratio to the parent: the confirmation's estimate where there is one, else the screening's, else None.

        Of an attempt that was compared with another one to land, the log-ratio to that one.
        """
        measured = self.landing or self.confirmed or self.gain
        return None if measured is None else measured.estimate
