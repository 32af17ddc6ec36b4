"""The tuner on a real lineage: proposals follow what was measured, and a resumed run goes on as it would have."""

from __future__ import annotations

import logging
import math
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import source_digest
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Status
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View
from pytest_avo.operators.budget import Budget
from pytest_avo.operators.ledger import Ledger
from pytest_avo.operators.operator import DraftResult, Proposal, Task, VariationOperator
from pytest_avo.operators.tuner.tuner import Tuner

SHAPE = Shape(1, 8, 8, 256, 256, 64, True, "f32")
KERNEL = Path("kernels/cpu/tuned.py")
SOURCE = '''"""A kernel."""

AVO = {"target": "cpu", "shapes": ["smoke"]}
BLOCK_Q = 32  # queries per tile
BLOCK_K = 128
SKIP = False
GROUP = False
SOFTMAX = "passes"
TUNABLES = {
    "BLOCK_Q": [32, 64, 128, 256],
    "BLOCK_K": [128, 512, 2048],
    "SKIP": [False, True],
    "GROUP": [False, True],
    "SOFTMAX": ["passes", "fused", "online"],
}


def attention(q, k, v, *, causal, scale):
    return q
'''
EFFECTS: Mapping[str, Mapping[object, float]] = {
    "BLOCK_Q": {32: 0.0, 64: 0.1, 128: 0.25, 256: 0.1},
    "BLOCK_K": {128: 0.0, 512: 0.05, 2048: -0.1},
    "SKIP": {False: 0.0, True: 0.2},
    "GROUP": {False: 0.0, True: -0.05},
    "SOFTMAX": {"passes": 0.0, "fused": 0.1, "online": 0.02},
}
OPTIMUM = sum(max(effects.values()) for effects in EFFECTS.values())


def values(source: str) -> dict[str, object]:
    return {tunable.name: tunable.value for tunable in parse_kernel(source, path=KERNEL).tunables}


def true_score(source: str) -> float:
    return sum(EFFECTS[name][value] for name, value in values(source).items())


class Evolution:
    """A run loop in small: measures by the landscape above with 0.5% of noise, promotes from 2% on."""

    def __init__(self, store: Store, source: str = SOURCE, seed: int = 0) -> None:
        self.store = store
        self.seed = seed
        self.chance = random.Random(seed)
        run = store.start_run(
            kernel=str(KERNEL),
            target="cpu",
            operator="tuner",
            seed=seed,
            shapes=(SHAPE.id,),
            fingerprint=fingerprint(target="cpu", device="Some CPU", units=2),
            settings={},
        )
        self.view = View(store.path, run.id)
        self.generation = 0
        self.incumbent = self.add(source, None, Proposal(source, "seed"))
        store.add_outcome(AttemptOutcome(self.incumbent.id, "seed"))

    @property
    def kernel(self) -> Kernel:
        return parse_kernel(self.view.source(self.incumbent.digest), path=KERNEL)

    def task(self, *, member: int = 0) -> Task:
        def evaluate(source: str, shapes: Sequence[Shape], *, timed: bool) -> Mapping[str, DraftResult]:
            raise AssertionError("the tuner has no use for drafts")

        def race(
            source: str, shapes: Sequence[Shape], *, against: str, label: str, peer: str
        ) -> Mapping[str, DraftResult]:
            raise AssertionError("the tuner has no use for drafts")

        def diagnose(source: str, shape: Shape, *, function: str = "") -> str:
            raise AssertionError("the tuner has no use for drafts")

        return Task(
            kernel=self.kernel,
            parent=self.incumbent,
            generation=self.generation + 1,
            member=member,
            shapes=(SHAPE,),
            view=self.view,
            seed=self.seed,
            floor=0.003,
            accept="faster",
            device="Some CPU",
            folder=self.store.path.parent,
            evaluate=evaluate,
            race=race,
            compile_report=diagnose,
            profile=diagnose,
            scratch=lambda script, draft: "",
            machine=lambda: "",
            ledger=Ledger(Budget()),
            record=lambda fact: None,
            stopping=threading.Event(),
            say=lambda line: None,
        )

    def add(self, source: str, parent: int | None, proposal: Proposal) -> Attempt:
        return self.store.add_attempt(
            run=self.view.run.id,
            generation=self.generation,
            member=0,
            parent=parent,
            source=source,
            operator="tuner",
            hypothesis=proposal.hypothesis,
            predicted=proposal.predicted,
        )

    def measure(self, proposal: Proposal, status: Status | None = None) -> Attempt:
        """Record a proposal with its outcome: `status` for one that is refused, else by its score."""
        self.generation += 1
        attempt = self.add(proposal.source, self.incumbent.id, proposal)
        if status is not None:
            self.store.add_outcome(AttemptOutcome(attempt.id, status))
            return attempt
        gain = true_score(proposal.source) - true_score(self.kernel.source) + self.chance.gauss(0, 0.005)
        interval = Interval(gain, gain - 0.01, gain + 0.01)
        won = gain > 0.02
        self.store.add_outcome(
            AttemptOutcome(
                attempt.id, "promoted" if won else "slower", gain=interval, confirmed=interval if won else None
            )
        )
        if won:
            self.incumbent = attempt
        return attempt


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / ".avo" / "lineage.sqlite3") as store:
        yield store


@pytest.fixture
def evolution(store: Store) -> Iterator[Evolution]:
    evolution = Evolution(store)
    yield evolution
    evolution.view.close()


def proposed(evolution: Evolution, tuner: VariationOperator) -> Proposal:
    proposal = tuner.propose(evolution.task())
    assert proposal is not None
    return proposal


def test_twelve_proposals_reach_most_of_the_optimum(store: Store) -> None:
    for seed in range(5):
        evolution, tuner = Evolution(store, seed=seed), Tuner()
        for _ in range(12):
            evolution.measure(proposed(evolution, tuner))
        reached = evolution.kernel.source
        evolution.view.close()
        assert true_score(reached) > 0.9 * OPTIMUM, values(reached)


def test_a_proposal_is_the_parent_with_declared_values_and_is_new(evolution: Evolution) -> None:
    tuner = Tuner()
    digests = {source_digest(SOURCE)}
    for _ in range(15):
        parent = evolution.kernel
        proposal = proposed(evolution, tuner)
        changed = [
            (old, new)
            for old, new in zip(parent.source.splitlines(), proposal.source.splitlines(), strict=True)
            if old != new
        ]
        assert changed
        assert all(old.split(" = ")[0] in EFFECTS for old, _ in changed)
        assert source_digest(proposal.source) not in digests
        digests.add(source_digest(proposal.source))
        evolution.measure(proposal)


def test_a_resumed_run_goes_on_as_it_would_have(evolution: Evolution) -> None:
    first = Tuner()
    for _ in range(6):
        evolution.measure(proposed(evolution, first))
    assert first.propose(evolution.task()) == Tuner().propose(evolution.task())


def test_members_of_a_generation_differ(evolution: Evolution) -> None:
    tuner = Tuner()
    proposals = [tuner.propose(evolution.task(member=member)) for member in range(6)]
    assert len({proposal.source for proposal in proposals if proposal}) > 2


def test_what_is_in_flight_is_not_proposed_again(evolution: Evolution) -> None:
    tuner = Tuner()
    first = proposed(evolution, tuner)
    evolution.add(first.source, evolution.incumbent.id, first)
    assert proposed(evolution, tuner).source != first.source


def test_a_hypothesis_says_what_changes_and_what_is_expected(evolution: Evolution) -> None:
    tuner = Tuner()
    first = proposed(evolution, tuner)
    name, value = next((n, v) for n, v in values(first.source).items() if v != values(SOURCE)[n])
    assert first.hypothesis == f"{name} {values(SOURCE)[name]} -> {value}: a value not measured before, exploring"
    assert first.predicted == {}
    for _ in range(12):
        evolution.measure(proposed(evolution, tuner))
    later = proposed(evolution, tuner)
    ratio = later.predicted["geomean"]
    assert re.search(rf": predicted {re.escape(f'{ratio - 1:+.1%}')} from \d+ earlier attempts?$", later.hypothesis)
    assert math.log(ratio) == pytest.approx(true_score(later.source) - true_score(evolution.kernel.source), abs=0.06)


def test_a_value_that_is_refused_is_not_insisted_on(evolution: Evolution) -> None:
    tuner = Tuner()
    refused = 0
    for _ in range(20):
        proposal = proposed(evolution, tuner)
        wrong = values(proposal.source)["SOFTMAX"] == "online"
        refused += wrong
        evolution.measure(proposal, "incorrect" if wrong else None)
    assert 1 <= refused <= 5


def test_when_everything_is_tried_there_is_nothing_left(store: Store) -> None:
    small = SOURCE.replace("[32, 64, 128, 256]", "[32]").replace("[128, 512, 2048]", "[128]")
    evolution, tuner = Evolution(store, small), Tuner()
    for _ in range(2 * 2 * 3 - 1):
        evolution.measure(proposed(evolution, tuner))
    assert tuner.propose(evolution.task()) is None
    evolution.view.close()


def test_sources_of_another_make_do_not_disturb(evolution: Evolution) -> None:
    tuner = Tuner()
    foreign = (
        SOURCE.replace("BLOCK_Q", "TILE"),
        SOURCE.replace("BLOCK_K = 128", "BLOCK_K = 64").replace("[128, 512", "[64, 512"),
        SOURCE.replace('"passes"\n', '"absent"\n'),
        "def attention(:",
    )
    for source in foreign:
        evolution.measure(Proposal(source, "by someone else"), "crashed")
    assert values(proposed(evolution, tuner).source).keys() == EFFECTS.keys()


def test_provenance_of_the_parent_is_not_inherited(evolution: Evolution) -> None:
    kernel = parse_kernel("# avo: promoted by run 1\n" + SOURCE, path=KERNEL)
    proposal = Tuner().propose(replace(evolution.task(), kernel=kernel))
    assert proposal is not None
    assert proposal.source.startswith('"""A kernel."""')


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('AVO = {"target": "cpu", "shapes": ["smoke"]}\n', "found none"),
        ("TUNABLES = {}\n", "found none"),
        ("def attention(:\n", "found syntax error"),
    ],
)
def test_a_kernel_without_tunables_is_a_usage_error(store: Store, source: str, found: str) -> None:
    evolution = Evolution(store, source)
    with pytest.raises(InvalidInput, match=rf"tuned\.py: TUNABLES: expected a module-level literal .*{found}"):
        Tuner().propose(evolution.task())
    evolution.view.close()


def test_it_is_a_variation_operator_that_names_itself() -> None:
    operator: VariationOperator = Tuner()
    assert operator.name == "tuner"
    assert operator.describe().startswith("tuner (")


def test_optuna_is_silent(
    evolution: Evolution, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        proposed(evolution, Tuner())
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
