"""What the evaluator is asked of a candidate, and what is kept of its answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.trials import Candidate, Trials
from pytest_avo.lineage.records import Attempt
from tests.evolution.world import FIRST, SECOND, SHAPES, World, candidate, measured_seed, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def campaign(world: World) -> Iterator[Campaign]:
    opened = world.open()
    measured_seed(opened)
    yield opened
    opened.close()


@pytest.fixture
def counted() -> list[tuple[Attempt, int]]:
    return []


@pytest.fixture
def trials(world: World, campaign: Campaign, counted: list[tuple[Attempt, int]]) -> Trials:
    def count(attempt: Attempt, evaluations: Collection[Evaluation]) -> None:
        counted.append((attempt, len(evaluations)))

    return Trials(world.assessor(), campaign, count=count)


def test_a_screening_stops_as_soon_as_it_is_plain_on_which_side_of_the_noise_it_is(
    world: World, campaign: Campaign, trials: Trials
) -> None:
    trials.screen(candidate(campaign, source(200)), floor=0.02)
    (request,) = world.evaluator.requests
    assert (request.subject.source, request.shapes, request.peers) == (source(200), SHAPES, ("torch-sdpa",))
    assert request.baseline is not None
    assert (request.baseline.label, request.baseline.source) == ("tiny.py (incumbent)", source(100))
    assert request.plan is not None
    assert (request.plan.margin, request.plan.launches, request.fresh) == (0.02, 1, False)
    assert request.claim_alone
    assert request.brief


def test_what_a_kernel_makes_of_other_calls_is_asked_of_the_seed_and_of_what_looks_faster(
    world: World, campaign: Campaign, trials: Trials
) -> None:
    seed = campaign.view.attempts()[0]
    kernel = campaign.kernel(seed)
    trials.screen(Candidate(seed, kernel, kernel, 0.0), floor=None)
    trials.measure(candidate(campaign, source(200)), "confirm", kernel, floor=0.02)
    trials.measure(Candidate(seed, kernel, kernel, 0.0), "confirm", kernel, floor=None)
    assert [request.claim_alone for request in world.evaluator.requests] == [False, False, True]
    assert [request.brief for request in world.evaluator.requests] == [False, False, True]


def test_what_a_trial_finds_is_kept_all_at_once_and_counted(
    campaign: Campaign, trials: Trials, counted: list[tuple[Attempt, int]]
) -> None:
    tried = candidate(campaign, source(200))
    trial = trials.screen(tried, floor=0.01)
    assert trials.evaluation(trial, SHAPES[0]).shape == FIRST
    assert campaign.evaluated.of(tried.attempt, "screen") == {}
    found = trials.finish(trial)
    assert campaign.evaluated.of(tried.attempt, "screen") == found
    assert set(found) == {FIRST, SECOND}
    assert counted == [(tried.attempt, 2)]


def test_what_the_lineage_has_is_neither_asked_nor_counted_again(
    world: World, campaign: Campaign, trials: Trials, counted: list[tuple[Attempt, int]]
) -> None:
    tried = candidate(campaign, source(200))
    found = trials.finish(trials.screen(tried, floor=0.01))
    again = trials.screen(tried, floor=0.01)
    assert trials.finish(again) == found
    assert trials.evaluation(again, SHAPES[1]) == found[SECOND]
    assert (len(world.evaluator.requests), len(counted)) == (1, 1)


def test_a_candidate_that_cannot_be_read_is_not_sent_to_the_evaluator(
    world: World, campaign: Campaign, trials: Trials
) -> None:
    found = trials.finish(trials.screen(candidate(campaign, "def attention(:"), floor=0.01))
    assert {evaluation.outcome for evaluation in found.values()} == {"crashed"}
    assert "syntax error" in found[FIRST].reason
    assert world.evaluator.requests == []


@pytest.mark.parametrize("purpose", ["confirm", "land"])
def test_a_measurement_is_of_fresh_processes(world: World, campaign: Campaign, trials: Trials, purpose: str) -> None:
    tried = candidate(campaign, source(200))
    trials.finish(trials.measure(tried, purpose, campaign.kernel(campaign.incumbent), floor=0.02))  # type: ignore[arg-type]
    (request,) = world.evaluator.requests
    assert (request.fresh, request.peers) == (True, ())
    assert request.plan is not None
    assert (request.plan.launches, request.plan.margin, request.plan.max_rounds) == (6, 0.02, 18)
    assert request.claim_alone == request.brief == (purpose == "land")
    assert len(campaign.view.evaluations(tried.attempt.id, purpose)) == 2  # type: ignore[arg-type]


def test_nothing_is_kept_of_a_trial_that_the_evaluator_lost(
    campaign: Campaign, trials: Trials, counted: list[tuple[Attempt, int]]
) -> None:
    tried = candidate(campaign, source(200, result="lost"))
    trial = trials.screen(tried, floor=0.01)
    with pytest.raises(EvaluatorError, match="the worker was lost"):
        trials.evaluation(trial, SHAPES[0])
    with pytest.raises(EvaluatorError, match="the worker was lost"):
        trials.finish(trial)
    assert campaign.evaluated.of(tried.attempt, "screen") == {}
    assert counted == []


def test_a_comparison_of_two_kernels_is_recorded_nowhere(world: World, campaign: Campaign, trials: Trials) -> None:
    seed = campaign.kernel(campaign.incumbent)
    found = trials.compare(candidate(campaign, source(200)).kernel, seed)
    assert set(found) == {FIRST, SECOND}
    assert world.evaluator.requests[0].peers == ("torch-sdpa",)
    attempts = campaign.view.attempts()
    assert [campaign.view.evaluations(attempt.id, "confirm") for attempt in attempts] == [(), ()]
