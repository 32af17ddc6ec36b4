"""What a lineage keeps besides attempts, evaluations and outcomes: facts of a run, each kind with a type of its own.

A fact is stored under its tag, and read as the type that has the tag. Fields that came later have a default, so that
what an older version wrote is still read.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, get_args

import msgspec

from pytest_avo.core.stats import Interval


class Fact(msgspec.Struct, frozen=True, tag_field="kind"):
    """Something that a reader of the run must know."""


class NoiseFloor(Fact, frozen=True, tag="noise"):
    """What the run's A/A comparison of its seed gave, log-ratios."""

    floor: float
    """Below which a gain is none."""


class SeedComparison(Fact, frozen=True, tag="total"):
    """A winner beside the seed: ratio with its 95% interval, above 1 faster; `by_steps` until that is measured."""

    ratio: float
    low: float
    high: float
    attempt: int | None = None
    """The best kernel's; None: of whichever was the best at the end of the run."""
    by_steps: bool = False
    """Multiplied up from what its parent came to and its own step; else measured side by side."""

    @property
    def interval(self) -> Interval:
        """The ratio with its ends."""
        return Interval(self.ratio, self.low, self.high)


class Resumed(Fact, frozen=True, tag="resumed"):
    """The run went on with these settings, some of which differ from those before: name -> what it was and is."""

    settings: dict[str, str]
    changed: dict[str, str]


class Price(Fact, frozen=True, tag="proposed"):
    """What a proposal cost its operator, and what it taught."""

    generation: int
    tokens_in: int
    tokens_out: int
    cost: float
    lesson: str
    member: int = 0


class Spending(Fact, frozen=True, kw_only=True, tag="spending"):
    """A snapshot of the ledger. `cost` is None where the user gave no prices.

    `evaluations` are those that the operator asked for, `verifications` those of its candidates by the run itself;
    `evaluator_s` is what both took, and the seed.
    """

    attempts: int = 0
    turns: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    evaluations: int = 0
    verifications: int = 0
    evaluator_s: float = 0.0
    wall_s: float = 0.0


class Raced(Fact, frozen=True, tag="race"):
    """An operator had a draft timed beside a version or a peer, on so many shapes; in words, how it ended."""

    generation: int
    member: int
    digest: str
    against: str
    evaluations: int
    seconds: float
    text: str


class Profiled(Fact, frozen=True, tag="profile"):
    """An operator had profilers look into a draft on a shape: what they said, and how many seconds that took."""

    generation: int
    member: int
    digest: str
    shape: str
    seconds: float
    text: str


class PredictionChecked(Fact, frozen=True, tag="comparison"):
    """What an attempt was predicted to gain beside what it gained, in words, and shape id or "geomean" -> judgement."""

    attempt: int
    text: str
    judgements: dict[str, str] = {}


class LessonLearnt(Fact, frozen=True, tag="lesson"):
    """What a model wants later attempts to know: about which technique, by which symptom it is recognised."""

    text: str
    technique: str
    symptom: str
    generation: int
    member: int = 0


class Direction(msgspec.Struct, frozen=True):
    """Where the search should go next."""

    title: str
    why: str = ""
    first_step: str = ""
    expected: str = ""
    start_from: str = ""

    def __str__(self) -> str:
        named = {"why": self.why, "first step": self.first_step, "expected": self.expected, "start": self.start_from}
        return "; ".join([self.title, *(f"{name}: {value}" for name, value in named.items() if value)])


class Directions(Fact, frozen=True, tag="directions"):
    """A review of a search that is stuck: since which generation, by which symptom, and what is to be tried."""

    generation: int
    symptom: str
    diagnosis: str
    items: list[Direction]


class DirectionTaken(Fact, frozen=True, tag="direction_taken"):
    """Which attempt took up a direction: the number of its `Directions` event, and its index among the items."""

    directions: int
    index: int
    generation: int
    member: int


class DirectionLeft(Fact, frozen=True, tag="direction_left"):
    """The attempt that took up a direction did not follow it, by its own account or because it proposed nothing."""

    directions: int
    index: int
    generation: int
    member: int


class FenceMark(Fact, frozen=True, tag="fence"):
    """The mark of foreign text in this run's prompts, kept so that a resumed step reads as it did before."""

    mark: str


class Note(Fact, frozen=True, tag="note"):
    """What an operator of the user's wants to keep, or a fact of a kind that this version does not know."""

    name: str
    data: dict[str, Any]
    """Whatever JSON can hold."""


AnyFact = (
    NoiseFloor
    | SeedComparison
    | Resumed
    | Price
    | Spending
    | Raced
    | Profiled
    | PredictionChecked
    | LessonLearnt
    | Directions
    | DirectionTaken
    | DirectionLeft
    | FenceMark
    | Note
)
KINDS: dict[str, type[Fact]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyFact)}
"""Types of facts by the tag that they are stored under."""

FactKind = TypeVar("FactKind", bound=Fact, covariant=True)


class Event(msgspec.Struct, Generic[FactKind], frozen=True):
    """A fact as it was recorded. `time` is ISO 8601 in UTC."""

    id: int
    run: int
    time: str
    fact: FactKind


def kind_of(fact: type[Fact]) -> str:
    """The tag that facts of a type are stored under."""
    return str(fact.__struct_config__.tag)


def encoded(fact: Fact) -> str:
    """A fact as the lineage stores it beside its tag."""
    data = msgspec.to_builtins(fact)
    del data["kind"]
    return msgspec.json.encode(data).decode()


def decoded(kind: str, data: str) -> Fact:
    """The fact that was stored under a tag; a Note where nothing here has that tag."""
    if kind not in KINDS:
        return Note(kind, msgspec.json.decode(data, type=dict[str, Any]))
    return msgspec.json.decode(data, type=KINDS[kind])
