"""What a page shows of a run, as plain values. Ratios are above 1 where the attempt is faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_avo.core.stats import Interval
from pytest_avo.lineage.records import GEOMEAN

UNDER_WAY = "under way"
"""Status of an attempt that has not ended."""
KEPT = frozenset({"seed", "promoted", "kept"})
"""Statuses of attempts that others may descend from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeFacts:
    """One attempt on one shape, from its screening; in the seed's, which is timed beside itself, no ratio."""

    shape: str
    outcome: str
    reason: str = ""
    median_us: float | None = None
    ratio: Interval | None = None
    """Parent's time / the attempt's, with its 95% interval."""
    predicted: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFacts:
    """A draft that was evaluated on top of an attempt, on some shapes."""

    name: str
    outcomes: tuple[str, ...]
    """One for each shape that it was tried on."""
    timed: int
    ratio: float | None
    """Parent's time / the draft's: the geomean over the shapes that were timed."""
    reason: str
    """Why it failed where it did."""
    became: str
    """The attempt that submitted it, if one did."""


@dataclass(frozen=True, slots=True)
class LookFacts:
    """What an operator saw of a draft on the way: a profile, or a race."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """One attempt: its proposal, how it ended, and what the run had spent by then."""

    id: int
    name: str
    generation: int
    member: int
    island: int
    parent: int | None
    status: str
    operator: str
    hypothesis: str
    created: str
    digest: str
    parent_digest: str | None
    source: str
    parent_source: str
    reason: str = ""
    lesson: str = ""
    gain: Interval | None = None
    """Ratio to what it was compared with, by the landing, the confirmation or the screening, the first there is."""
    screened: Interval | None = None
    confirmed: Interval | None = None
    """The same ratio, by the screening and by the confirmation alone."""
    speed: Interval | None = None
    """Ratio to the seed."""
    predictions: Mapping[str, float] = field(default_factory=dict)
    """Predicted ratios by shape id, and of the geomean."""
    judgement: str = ""
    shapes: tuple[ShapeFacts, ...] = ()
    transcript: str = ""
    looks: tuple[LookFacts, ...] = ()
    """Profiles and races of its step."""
    drafts: tuple[DraftFacts, ...] = ()
    """That were made on top of it."""
    own_evaluations: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    evaluations: int = 0
    """Spent by the run up to the end of this attempt; so are the next three."""
    elapsed_s: float = 0.0
    total_cost: float = 0.0
    total_tokens: int = 0

    @property
    def predicted(self) -> float | None:
        """The geomean that was predicted."""
        return self.predictions.get(GEOMEAN)

    @property
    def is_confirmed(self) -> bool:
        """Whether it was measured again in fresh processes."""
        return self.confirmed is not None

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def is_kept(self) -> bool:
        """Whether others may descend from it."""
        return self.status in KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run, complete or not. Attempts are in the order in which they ended; what is under way comes last."""

    number: int
    project: str
    """The folder that it belongs to."""
    kernel: str
    operator: str
    started: str
    shapes: tuple[str, ...]
    attempts: tuple[AttemptFacts, ...]
    noise_floor: float | None
    """A log-ratio."""
    machine: dict[str, str]
    settings: dict[str, str]
    ledger: dict[str, str]
    over_seed: Interval | None = None
    """The best kernel beside the seed."""

    @property
    def label(self) -> str:
        """What the run is called."""
        return f"Run {self.number}: {self.kernel}, {self.operator}"

    @property
    def promoted(self) -> tuple[AttemptFacts, ...]:
        return tuple(each for each in self.attempts if each.status == "promoted")
