"""What an operator is told and given, and what its questions cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_avo.core.fingerprint import installed_version
from pytest_avo.core.stats import Interval
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.consultation import Consultation
from pytest_avo.lineage.evaluated import DRAFT
from pytest_avo.lineage.events import Spending
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.operators.budget import Budget
from pytest_avo.operators.operator import DraftsSpent, OperatorStopped, Proposal, Task
from tests.evolution.world import FIRST, SECOND, SHAPES, Operator, Step, World, measured_seed, proposal, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def campaign(world: World) -> Iterator[Campaign]:
    opened = world.open()
    measured_seed(opened)
    yield opened
    opened.close()


def consult(world: World, campaign: Campaign, *steps: Step) -> tuple[Consultation, dict[int, Proposal | None]]:
    """Ask about the first generation, a step for each member."""
    operator = Operator({(1, member): step for member, step in enumerate(steps)})
    consultation = Consultation(world.assessor(), campaign, operator, world.console, propose=operator.propose)
    return consultation, dict(consultation.propose(1, dict.fromkeys(range(len(steps)), campaign.incumbent)))


def test_a_task_says_what_is_varied_and_by_what_rule(world: World, campaign: Campaign) -> None:
    tasks: list[Task] = []
    consult(world, campaign, tasks.append, tasks.append)
    assert sorted(task.member for task in tasks) == [0, 1]
    task = tasks[0]
    assert (task.generation, task.kernel.source, task.parent) == (1, source(100), campaign.incumbent)
    assert (task.shapes, task.seed, task.floor) == (SHAPES, 7, campaign.floor)
    assert task.device.startswith(f"Some CPU x2, torch {installed_version('torch')}, ")
    assert (task.folder, task.accept) == (world.folder / ".avo", "faster")


def test_members_are_heard_as_they_come_and_what_they_say_is_shown(world: World, campaign: Campaign) -> None:
    def talk(task: Task) -> Proposal:
        task.say("I try this")
        return proposal(source(200))

    _, found = consult(world, campaign, talk, None)
    assert found[0] is not None
    assert found[0].source == source(200)
    assert found[1] is None
    assert world.said == ["I try this"]


def test_a_draft_is_kept_shape_by_shape_and_not_asked_twice(world: World, campaign: Campaign) -> None:
    def step(task: Task) -> None:
        verdicts = task.evaluate(source(200), SHAPES[:1], timed=True)
        assert verdicts[FIRST].verdict.kind == "faster"
        both = task.evaluate(source(200), SHAPES, timed=True)
        assert set(both) == {FIRST, SECOND}
        assert task.evaluate(source(200), SHAPES, timed=True) == both

    consultation, _ = consult(world, campaign, step)
    assert [[shape.id for shape in request.shapes] for request in world.evaluator.requests] == [[FIRST], [SECOND]]
    drafts = campaign.view.evaluations(campaign.incumbent.id, DRAFT)
    assert [each.evaluation.shape for each in drafts] == [FIRST, SECOND]
    assert consultation.ledger.snapshot().evaluations == 2


def test_a_draft_that_was_timed_is_still_to_be_asked_beside_its_claim(world: World, campaign: Campaign) -> None:
    def step(task: Task) -> None:
        for timed in (True, False, False, True):
            task.evaluate(source(200), SHAPES[:1], timed=timed)

    consult(world, campaign, step)
    assert [request.claim_alone for request in world.evaluator.requests] == [True, False]


def test_a_draft_that_was_only_checked_is_timed_where_that_is_wanted(world: World, campaign: Campaign) -> None:
    def step(task: Task) -> None:
        assert task.evaluate(source(200), SHAPES[:1], timed=False)[FIRST].verdict.kind == "correct"
        assert task.evaluate(source(200), SHAPES[:1], timed=True)[FIRST].verdict.kind == "faster"

    consult(world, campaign, step)
    untimed, timed = world.evaluator.requests
    assert (untimed.plan, untimed.baseline) == (None, None)
    assert timed.baseline is not None
    assert timed.baseline.source == source(100)


def test_what_verifies_a_candidate_is_set_aside_from_drafts(world: World, campaign: Campaign) -> None:
    # Two shapes screened and confirmed take four: one is left for a draft.
    world.changes = {"budget": Budget(max_evaluations=5)}

    def step(task: Task) -> None:
        with pytest.raises(DraftsSpent, match="1 evaluations of drafts are left in this run, this needs 2"):
            task.evaluate(source(200), SHAPES, timed=True)
        task.evaluate(source(200), SHAPES[:1], timed=True)
        with pytest.raises(DraftsSpent, match="0 evaluations of drafts are left"):
            task.evaluate(source(300), SHAPES[:1], timed=True)

    consult(world, campaign, step)
    assert len(world.evaluator.requests) == 1


def test_an_operator_is_told_to_stop_when_the_run_ends(world: World, campaign: Campaign) -> None:
    tasks: list[Task] = []
    consultation, _ = consult(world, campaign, tasks.append)
    consultation.close()
    assert tasks[0].stopping.is_set()
    with pytest.raises(OperatorStopped, match="the run is ending"):
        tasks[0].evaluate(source(200), SHAPES, timed=True)
    assert world.evaluator.requests == []


@pytest.mark.parametrize(("target", "offered"), [("cpu", True), ("sm90", True), ("sm75", False)])
def test_no_tool_is_offered_that_always_declines(world: World, campaign: Campaign, target: str, offered: bool) -> None:
    campaign.plan = replace(campaign.plan, target=target)

    def step(task: Task) -> None:
        assert (task.compile_report is not None) == offered, "nothing here compiles for a target without a report"

    consult(world, campaign, step)


def test_a_race_is_run_anew_and_counted_but_answers_no_evaluation(world: World, campaign: Campaign) -> None:
    def step(task: Task) -> None:
        for _ in range(2):
            found = task.race(source(200), SHAPES[:1], against=source(50), label="g0007", peer="torch-sdpa")
            assert list(found) == [FIRST]

    consult(world, campaign, step)
    assert [request.baseline.source for request in world.evaluator.requests if request.baseline] == [source(50)] * 2
    assert {request.peers for request in world.evaluator.requests} == {("torch-sdpa",)}
    assert campaign.evaluated.draft(campaign.incumbent, source(200), timed=True) == {}
    spent = campaign.evaluated.spending()
    assert spent is not None
    assert spent.evaluations == 2


def test_what_was_spent_is_on_disk_with_every_answer_and_goes_on_after_an_interruption(
    world: World, campaign: Campaign
) -> None:
    def step(task: Task) -> None:
        task.evaluate(source(200), SHAPES, timed=True)

    consult(world, campaign, step)
    last = campaign.view.events(Spending)[-1].fact
    assert (last.attempts, last.evaluations) == (1, 2)
    resumed, _ = consult(world, campaign, None)
    # An attempt that was interrupted before it was recorded is begun, and counted, once more.
    assert (resumed.ledger.snapshot().evaluations, resumed.ledger.snapshot().attempts) == (2, 1)


def test_a_finished_attempt_is_compared_with_what_was_predicted(world: World, campaign: Campaign) -> None:
    tried = proposal(source(200), predicted={"geomean": 1.2})
    attempt, _ = campaign.add(tried, generation=1, member=0, parent=campaign.incumbent)
    consultation, _ = consult(world, campaign)
    consultation.settled(attempt, AttemptOutcome(attempt.id, "promoted", confirmed=Interval(0.69, 0.68, 0.7)))
    assert world.said == ["  geomean predicted 1.200, measured 1.994 [1.974, 2.014]: too low"]


def test_evaluations_of_the_seed_are_free(world: World, campaign: Campaign) -> None:
    consultation, _ = consult(world, campaign)
    attempt, _ = campaign.add(proposal(source(200)), generation=1, member=0, parent=campaign.incumbent)
    found = [each.evaluation for each in campaign.view.evaluations(campaign.incumbent.id, "screen")]
    consultation.verified(campaign.incumbent, found)
    assert consultation.ledger.snapshot().verifications == 0
    consultation.verified(attempt, [*found, *found])
    assert consultation.ledger.snapshot().verifications == 2 * len(found)
