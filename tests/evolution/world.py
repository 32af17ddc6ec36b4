"""Evolutions in milliseconds: a real lineage, campaign and loop; the evaluator reads results off the source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import (
    BASELINE,
    FIXED,
    KERNEL,
    Evaluation,
    EvaluationRequest,
    Limits,
    Subject,
    Timing,
    TimingPlan,
)
from pytest_avo.core.fingerprint import Fingerprint, fingerprint
from pytest_avo.core.kernel import read_kernel
from pytest_avo.core.shape import Shape, SuiteFolders
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import accepts
from pytest_avo.evolution.hooks import Hooks
from pytest_avo.evolution.loop import Loop, open_campaign
from pytest_avo.evolution.trials import Candidate, Trial
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.rules import parse_rules
from pytest_avo.lineage.records import Attempt, Status
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import Budget
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.operator import Proposal, Task
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings

SHAPES = (
    Shape(batch=1, heads_q=2, heads_kv=2, seqlen_q=64, seqlen_kv=64, head_dim=64, causal=True, dtype="f32"),
    Shape(batch=1, heads_q=4, heads_kv=2, seqlen_q=1, seqlen_kv=96, head_dim=64, causal=False, dtype="f32"),
)
FOR_NORMAL = "made for normal inputs"
"""In the note of a kernel that is."""
BUSY = "on a busy machine"
"""In the note of one that shows it in a confirmation alone, where its processes differ by a fifth."""
FIRST, SECOND = (shape.id for shape in SHAPES)


def source(speed: int, *, confirmed: int | None = None, result: str = "ok", note: str = "") -> str:
    """A kernel: how fast it is, how fast it looks in fresh processes if that differs, what comes of it."""
    fresh = speed if confirmed is None else confirmed
    return (
        f'"""A kernel whose speed stands in it. {note}"""\n\n'
        'AVO = {"target": "cpu", "shapes": ["tiny"]}\n\n'
        f"SPEED, FRESH, RESULT = {speed}, {fresh}, {result!r}\n\n\n"
        "def attention(q, k, v, *, causal, scale):\n    return q * SPEED\n"
    )


def speed_of(text: str, *, fresh: bool) -> int:
    found = re.search(r"^SPEED, FRESH, RESULT = (\d+), (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[2 if fresh else 1])


def timing_of(request: EvaluationRequest) -> Timing | None:
    """Every round as it must be, but for a thousandth."""
    if request.plan is None:
        return None
    arms = {KERNEL: 1.0 / speed_of(request.subject.source, fresh=request.fresh), **dict.fromkeys(request.peers, 0.1)}
    if request.fixed:
        arms[FIXED] = 0.1
    if request.baseline is not None:
        arms[BASELINE] = 1.0 / speed_of(request.baseline.source, fresh=request.fresh)
        if "takes its time beside others" in request.baseline.source:
            arms[BASELINE] *= 2
    samples: dict[str, tuple[tuple[float, ...], ...]] = {
        arm: tuple((mean_s, mean_s * 1.001, mean_s * 0.999, mean_s) for _ in range(request.plan.launches))
        for arm, mean_s in arms.items()
    }
    timing = Timing(samples, calls=1, stopped="rounds")
    if BUSY in request.subject.source:
        return differing(specialised(timing)) if request.fresh else timing
    return specialised(timing) if FOR_NORMAL in request.subject.source else timing


def differing(timing: Timing) -> Timing:
    """The timing of a kernel whose every other process takes a fifth longer."""
    launches = tuple(
        tuple(x * (1.1 if number % 2 else 1 / 1.1) for x in launch)
        for number, launch in enumerate(timing.seconds[KERNEL])
    )
    return msgspec.structs.replace(timing, seconds={**timing.seconds, KERNEL: launches})


def specialised(timing: Timing) -> Timing:
    """The timing of a kernel that is so fast on normal inputs, and takes four times as long where scores spread."""
    kinds = tuple(
        tuple("spread" if number % 2 else "normal" for number in range(len(x))) for x in timing.seconds[KERNEL]
    )
    slowed = tuple(
        tuple(x * (4 if kind == "spread" else 1) for x, kind in zip(launch, names, strict=True))
        for launch, names in zip(timing.seconds[KERNEL], kinds, strict=True)
    )
    return msgspec.structs.replace(timing, seconds={**timing.seconds, KERNEL: slowed}, kinds=kinds)


@dataclass
class ScriptedEvaluator:
    """Answers at once. A kernel's RESULT is an outcome, or "lost": then the evaluator itself fails."""

    requests: list[EvaluationRequest] = field(default_factory=list)

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        self.requests.append(request)
        return {shape.id: self._answer(request, shape) for shape in request.shapes}

    def _answer(self, request: EvaluationRequest, shape: Shape) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        found = re.search(r"'([\w ]+)'$", request.subject.source, re.MULTILINE)
        result = found[1] if found else "ok"
        if result == "wrong when fresh":
            result = "incorrect" if request.fresh else "ok"
        if result == "lost":
            future.set_exception(EvaluatorError("the worker was lost"))
        elif result == "ok":
            future.set_result(Evaluation(shape.id, "ok", time_s=1.0, timing=timing_of(request)))
        else:
            future.set_result(Evaluation(shape.id, result, f"is {result}", check_s=0.5))  # type: ignore[arg-type]
        return future

    def doing(self) -> str:
        return "idle"

    def news(self) -> list[str]:
        return []

    def work(self) -> list[Work]:
        return []

    def close(self) -> None: ...


class Device:
    """A kind of device with a peer."""

    target = "cpu"
    peers = ("torch-sdpa",)

    def fingerprint(self) -> Fingerprint:
        return fingerprint(target="cpu", device="Some CPU", units=2)


@dataclass
class Screen:
    """Keeps what is written."""

    lines: list[str] = field(default_factory=list)
    isatty = False
    columns = 100

    def ensure_newline(self) -> None: ...

    def rewrite(self, line: str, **markup: bool) -> None: ...

    def write_line(self, line: str, **markup: bool) -> None:
        self.lines.append(line)


Step = Proposal | Exception | None | Callable[[Task], Proposal | None]


@dataclass
class Operator:
    """Proposes what is scripted, by generation and member."""

    steps: Mapping[tuple[int, int], Step]
    name: str = "scripted"
    asked: list[Task] = field(default_factory=list)

    def describe(self) -> str:
        return self.name

    def propose(self, task: Task) -> Proposal | None:
        self.asked.append(task)
        step = self.steps.get((task.generation, task.member))
        if isinstance(step, Exception):
            raise step
        return step if step is None or isinstance(step, Proposal) else step(task)


def proposal(text: str, hypothesis: str = "faster", **more: Any) -> Proposal:
    return Proposal(text, hypothesis, **more)


@dataclass
class World:
    """A project with a kernel that is evolved."""

    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the settings."""
    evaluator: ScriptedEvaluator = field(default_factory=ScriptedEvaluator)
    screen: Screen = field(default_factory=Screen)
    present: Callable[[Trial], None] = lambda _: None
    finished: list[tuple[int, int, Mapping[str, Verdict]]] = field(default_factory=list)
    promote: Callable[[Attempt, Interval, float], bool] | None = None
    """In the place of the built-in rule."""

    def __post_init__(self) -> None:
        self.kernel = self.folder / "kernels" / "tiny.py"
        self.kernel.parent.mkdir(parents=True, exist_ok=True)
        self.kernel.write_text(source(100))

    @property
    def settings(self) -> Settings:
        plain = Settings(
            mode="evolve",
            target="",
            rootdir=self.folder,
            suites=SuiteFolders(()),
            shapes=(),
            transfer=False,
            screen=(),
            peers=None,
            limits=Limits(),
            plan=TimingPlan(max_rounds=6),
            sandbox="off",
            gate=GateSettings(
                compare=None,
                rules=parse_rules([], []),
                lenient=False,
                allow_mismatch=False,
                folder=self.folder,
                save=None,
            ),
            files={},
            live=False,
            kernels=(),
            evolve={},
            generations=1,
            population=1,
            islands=1,
            operator="somebody:Else",
            agent=AgentSettings(),
            external=ExternalSettings(),
            directions=(),
            without_model="",
            budget=Budget(),
            prices=None,
            serve=None,
            serve_for_s=None,
            submit="",
            seed=7,
            accept="faster",
            resume=False,
            commit=False,
        )
        return replace(plain, **self.changes)

    @property
    def console(self) -> Console:
        return Console(lambda: self.screen)

    @property
    def said(self) -> list[str]:
        return self.screen.lines

    def assessor(self) -> Assessor:
        return Assessor(self.settings, Device(), self.console, start=lambda _: self.evaluator, confinement="off")

    def open(self, operator: Operator | None = None) -> Campaign:
        peers, operator = self.assessor().peers_on(Device()), operator or Operator({})
        return open_campaign(self.settings, read_kernel(self.kernel), SHAPES, Device(), operator=operator, peers=peers)

    @contextmanager
    def loop(self, operator: Operator) -> Iterator[Loop]:
        """The loop of an evolution that is begun, or with `resume` among the changes resumed."""
        rule = self.promote or (lambda _, measured, floor: accepts(measured, floor, accept=self.settings.accept))
        hooks = Hooks(operator.propose, rule, lambda *told: self.finished.append(told))
        loop = Loop(self.assessor(), self.open(operator), operator, self.console, hooks, present=self.present)
        try:
            yield loop
        finally:
            loop.close()

    def evolve(self, *steps: Step | Sequence[Step], resume: bool = False, **changes: Any) -> list[Status]:
        """Run an evolution, a step a generation (or several, one a member), and say how the attempts ended.

        `resume` and the settings changed are of this evolution and those after it.
        """
        self.changes |= {"generations": max(1, len(steps)), "resume": resume} | changes
        by_member = {
            (generation, member): step
            for generation, group in enumerate(steps, start=1)
            for member, step in enumerate(group if isinstance(group, Sequence) else [group])
        }
        with self.loop(Operator(by_member)) as loop:
            loop.run()
            return self.statuses(loop.campaign)

    @staticmethod
    def statuses(campaign: Campaign) -> list[Status]:
        """By attempt, in their order."""
        outcomes = campaign.view.outcomes()
        return [outcomes[attempt.id].status for attempt in campaign.view.attempts() if attempt.id in outcomes]


def measured_seed(campaign: Campaign) -> Attempt:
    """The seed of a campaign, its noise measured: what a candidate is tried against."""
    seed = campaign.view.attempts()[0]
    subject = Subject("tiny.py", campaign.view.source(seed.digest))
    request = EvaluationRequest(0, subject, SHAPES, plan=TimingPlan(), baseline=subject)
    campaign.measure_noise(seed, [{x.id: Evaluation(x.id, "ok", timing=timing_of(request)) for x in SHAPES}])
    return seed


def candidate(
    campaign: Campaign, text: str, *, generation: int = 1, member: int = 0, parent: Attempt | None = None
) -> Candidate:
    """A candidate that was proposed on the seed, or on another attempt."""
    over = parent or campaign.view.attempts()[0]
    attempt, _ = campaign.add(proposal(text), generation=generation, member=member, parent=over)
    return Candidate(attempt, campaign.kernel(attempt), campaign.kernel(over), since=0.0)
