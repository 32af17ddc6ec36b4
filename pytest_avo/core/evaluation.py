"""What is asked of an evaluator and what it answers: the values that cross processes and hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from pytest_avo.core.shape import USUAL, Shape

Outcome = Literal["ok", "incorrect", "crashed", "timeout", "rejected", "unsupported"]
Look = Literal["", "profile", "compile", "scratch", "machine"]
"""How to look into a kernel instead of judging it: with profilers, with its compiler, by a script (the subject is the
script then, and imports the baseline as `draft`). "machine": at the machine alone. "": judge it."""
Calls = Literal["graph", "eager"]
"""How timed calls are made on a GPU: replayed from a CUDA graph, or launched one by one, the host's part included."""
KERNEL = "kernel"
BASELINE = "baseline"
"""Names of the two arms that every comparison may have; the other arms are peers, by their own names."""
FIXED = "(fixed)"
"""Name of the arm that comparisons at different times have in common: a peer that is not shown as one."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that a kernel's process may spend in each phase, per shape; then its whole process group is killed.

    build: import and the first call (kernels compile there); check: all further calls of the correctness check;
    time: all timed calls of one round.
    """

    build: float = 120.0
    check: float = 60.0
    time: float = 60.0


class TimingPlan(msgspec.Struct, frozen=True):
    """How long to measure: rounds per launch, launches (fresh processes for every arm), and when to stop early.

    margin: with a baseline, stop as soon as the geomean against it lies wholly on one side of this log-ratio. That is
    looked at after min_rounds, twice as many, and so on; risk: chance that it stops on the wrong side, over all looks.
    looks_freely: after min_rounds and every further so many, or every launch from the second on, at `risk` each time.
    precision: without a margin, stop when every 95% interval is within +-precision: of each shape in one launch, of all
    of them together over four and more. budget_s: for all rounds, warming up not counted. calls: how they are made on a
    GPU; a CPU has but one way. costs: measure too what a single eager call costs the host.
    """

    min_rounds: int = 5
    max_rounds: int = 30
    launches: int = 1
    budget_s: float = 30.0
    precision: float = 0.01
    margin: float | None = None
    risk: float = 0.01
    looks_freely: bool = False
    calls: Calls = "graph"
    costs: bool = False


class Subject(msgspec.Struct, frozen=True):
    """A kernel to run: a name to show and the source to load."""

    label: str
    source: str


class EvaluationRequest(msgspec.Struct, frozen=True):
    """Evaluate one kernel on shapes: correctness always, timing where there is a plan."""

    number: int
    subject: Subject
    shapes: tuple[Shape, ...]
    limits: Limits = Limits()
    plan: TimingPlan | None = None
    baseline: Subject | None = None
    peers: tuple[str, ...] = ()
    fixed: str = ""
    """Name of the peer that is timed as FIXED, or ""."""
    may_lack_baseline: bool = False
    """Where the baseline fails, time the kernel without it and say so in the notes; else the evaluator has failed."""
    fresh: bool = False
    """Start every arm in a new process, as a confirmation needs."""
    claim_alone: bool = False
    """Check it on what it claims alone, and of shapes that differ by lengths one by an exact reference: another request
    does, or did, ask what it makes of other calls, and judge all of it in full."""
    brief: bool = False
    """With `claim_alone`: two plain calls of each shape, then timed without being watched while it idles. Another
    request does the rest before anything comes of the times, or did it."""
    known_right: bool = False
    """A request of the same comparison found it right, and nothing hangs on asking that again: one call, then timed."""
    target: str = ""
    """The kind of device that it is for, where a run has several; "" for its own."""
    look: Look = ""
    """Look into the kernel instead of judging it; the answer is `Evaluation.diagnosis`."""
    function: str = ""
    """The function whose machine code a look at what it compiles to is to show; "" for none."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The kernel, and the baseline that it is timed beside."""
        return (self.subject,) if self.baseline is None or self.plan is None else (self.subject, self.baseline)


class Reading(msgspec.Struct, frozen=True):
    """What a device says of itself while kernels are timed on it."""

    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    throttled: tuple[str, ...] = ()
    """Why its clock is lower than it could be."""


class Conditions(msgspec.Struct, frozen=True):
    """What the readings of a comparison amount to."""

    sm_mhz: tuple[int, int]
    """Lowest and highest."""
    temperature_c: int
    """Highest."""
    power_w: float
    """Highest."""
    throttled: dict[str, float]
    """Reason -> share of the rounds."""


class CallCost(msgspec.Struct, frozen=True):
    """What an eager call takes of the host, in seconds, less what a kernel that does nothing takes there."""

    host_s: float
    """Until the call returns. On a GPU its work is only enqueued then."""
    idle_s: float
    """A single call, from a process and a device at rest until its result is there."""


class Timing(msgspec.Struct, frozen=True):
    """Raw samples of one shape. Every arm ran once in each round, on the same inputs."""

    seconds: dict[str, tuple[tuple[float, ...], ...]]
    """arm -> launches -> seconds per call of each round, by the judge's clock."""
    calls: int
    """Calls in one timed slice, each on inputs of its own."""
    stopped: str
    """Why the rounds ended."""
    readings: tuple[Reading, ...] = ()
    """One per round, where the device tells."""
    too_few: str = ""
    """Why there are too few rounds for any verdict, or "": a single one has an interval without width."""
    least_s: float = 0.0
    """Seconds per call that the work takes at the device's own rates; 0 where they are not known."""
    kinds: tuple[tuple[str, ...], ...] = ()
    """launches -> the kind of inputs of each round; () where all were normal."""
    costs: dict[str, CallCost] = {}
    """By arm; empty where they were not asked for."""
    harness_s: float = 0.0
    """Seconds per call that a kernel which does nothing takes: subtracted from every sample."""
    eager: bool = False
    """Whether calls were launched one by one on a GPU; else they were replayed from CUDA graphs."""
    spins: bool = False
    """Whether threads spun before they slept at barriers, as on an idle CPU; else other work was on it."""

    @property
    def kinds_by_launch(self) -> tuple[tuple[str, ...], ...]:
        """As `kinds`, written out where all were normal."""
        return self.kinds or tuple(tuple(USUAL[0] for _ in launch) for launch in self.seconds[KERNEL])

    @property
    def kind_names(self) -> tuple[str, ...]:
        """The kinds of inputs that occur, in the order in which they first do."""
        return tuple(dict.fromkeys(kind for launch in self.kinds_by_launch for kind in launch))

    @property
    def conditions(self) -> Conditions | None:
        """The readings in short; None where the device tells nothing."""
        if not self.readings:
            return None
        clocks = [reading.sm_mhz for reading in self.readings]
        reasons = [reason for reading in self.readings for reason in reading.throttled]
        return Conditions(
            sm_mhz=(min(clocks), max(clocks)),
            temperature_c=max(reading.temperature_c for reading in self.readings),
            power_w=max(reading.power_w for reading in self.readings),
            throttled={reason: reasons.count(reason) / len(clocks) for reason in dict.fromkeys(reasons)},
        )


class Evaluation(msgspec.Struct, frozen=True):
    """The raw facts about one kernel on one shape."""

    shape: str
    outcome: Outcome
    reason: str = ""
    seed: int = 0
    """Seed of the inputs; with the same kernel and versions it draws them again."""
    worker: str = ""
    device: str = ""
    build_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0
    waited_s: float = 0.0
    """Seconds that the device was waited for, while other runs had it."""
    timing: Timing | None = None
    notes: tuple[str, ...] = ()
    """What else a reader of the numbers must know: an absent peer, say."""
    unfit: bool = False
    """The shape does not fit the device, which is not the kernel's fault: it was not run."""
    log: str = ""
    """Tail of what the kernel printed. Data, never to be interpreted."""
    diagnosis: str = ""
    """What profilers say of the kernel, where a request was to look into it: nothing was judged then."""

    @property
    def seconds(self) -> float:
        """What it took the evaluator."""
        return self.build_s + self.check_s + self.time_s

    def settles(self, *, timed: bool) -> bool:
        """Whether asking for the same kernel and shape again, timed or not, could tell nothing new.

        What is timed is checked on less than all calls; a failure is one either way.
        """
        return self.outcome != "ok" or (self.timing is not None) == timed


Evaluations = Mapping[str, Evaluation]
"""Of one measurement, by shape id."""
