"""What becomes of a screened candidate."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL
from pytest_avo.core.stats import Interval
from pytest_avo.evolution import fixed_arm
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import Decision, accepts, decide
from pytest_avo.evolution.settlement import Settlement, status_of
from pytest_avo.evolution.trials import Candidate, Trials
from pytest_avo.lineage.records import Attempt, AttemptOutcome
from tests.evolution.world import BUSY, FOR_NORMAL, SHAPES, World, candidate, measured_seed, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def campaign(world: World) -> Iterator[Campaign]:
    opened = world.open()
    measured_seed(opened)
    yield opened
    opened.close()


class Court:
    """Screens a candidate and settles it."""

    def __init__(self, world: World, campaign: Campaign) -> None:
        self.campaign = campaign
        self.told: list[AttemptOutcome] = []
        self.trials = Trials(world.assessor(), campaign, count=lambda *_: None)
        rule = world.promote or (lambda _, gain, floor: accepts(gain, floor, accept=world.settings.accept))
        self.settlement = Settlement(
            world.settings, world.console, campaign, self.trials, promote=rule, settled=lambda _, x: self.told.append(x)
        )

    def screen(self, tried: Candidate) -> tuple[Candidate, Decision]:
        found = self.trials.finish(self.trials.screen(tried, floor=self.campaign.floor))
        return tried, decide(found, SHAPES, floor=self.campaign.floor)

    def settle(self, tried: Candidate) -> AttemptOutcome:
        screened = self.screen(tried)
        if self.settlement.is_promising(screened[1]):
            self.settlement.contest([screened])
        else:
            self.settlement.dismiss(*screened)
        (outcome,) = self.told
        assert self.campaign.view.outcome(tried.attempt.id) == outcome
        return outcome


def test_what_is_faster_twice_is_promoted_by_the_second_figure(world: World, campaign: Campaign) -> None:
    outcome = Court(world, campaign).settle(candidate(campaign, source(200, confirmed=150)))
    assert outcome.status == "promoted"
    assert outcome.gain is not None
    assert outcome.confirmed is not None
    # The screening's estimate is biased upwards, because the candidate was selected by it.
    assert outcome.gain.exp().estimate == pytest.approx(2.0, rel=0.01)
    assert outcome.confirmed.exp().estimate == pytest.approx(1.5, rel=0.01)
    assert outcome.step == outcome.confirmed.estimate
    head = world.kernel.read_text()
    assert "measured=1.5" in head
    assert source(200, confirmed=150) in head
    assert "now in kernels/tiny.py" in world.said[-1]


def test_a_gain_over_an_incumbent_that_takes_its_time_is_rejected(world: World, campaign: Campaign) -> None:
    """It was a candidate once and stood better beside the fixed arm then."""
    court = Court(world, campaign)
    assert court.settle(candidate(campaign, source(200, note="takes its time beside others"))).status == "promoted"
    court.told.clear()
    outcome = court.settle(candidate(campaign, source(201), generation=2, parent=campaign.incumbent))
    assert outcome.status == "rejected"
    assert outcome.reason.startswith("2.01x the incumbent, but 1.01x what that was beside the same peer")
    assert "takes its time beside others" in world.kernel.read_text()


def test_a_gain_that_chance_may_hide_beside_the_fixed_arm_is_left_open(
    world: World, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two launches whose standings differ have an interval that holds everything."""
    court, known = Court(world, campaign), fixed_arm.standing

    def vague(*arguments: Any, **named: Any) -> Interval | None:
        found = known(*arguments, **named)
        return None if found is None else Interval(found.estimate, found.estimate - 2, found.estimate + 2)

    assert court.settle(candidate(campaign, source(200, note="takes its time beside others"))).status == "promoted"
    court.told.clear()
    monkeypatch.setattr(fixed_arm, "standing", vague)
    outcome = court.settle(candidate(campaign, source(201), generation=2, parent=campaign.incumbent))
    assert outcome.status == "ambiguous"
    assert outcome.reason.endswith("1.01x what that was beside the same peer: chance, or it takes its time")
    assert "takes its time beside others" in world.kernel.read_text()


def test_a_noisy_machine_excuses_no_incumbent_that_takes_a_fifth_longer(
    world: World, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it refuse what stands better than the incumbent did by more than the noise, whatever that does."""
    court = Court(world, campaign)
    assert court.settle(candidate(campaign, source(200))).status == "promoted"
    past, incumbent, same, better = (Interval(x, x - 0.2, x + 0.2) for x in (0.0, -0.19, 0.01, 0.4))
    monkeypatch.setattr(fixed_arm, "standing", lambda *_, of=KERNEL: incumbent if of == BASELINE else next(standings))
    standings: Iterator[Interval] = iter([past, same])
    court.told.clear()
    tried = candidate(campaign, source(242), generation=2, parent=campaign.incumbent)
    assert court.settle(tried).status == "ambiguous"
    standings = iter([past, better])
    court.told.clear()
    tried = candidate(campaign, source(300), generation=3, parent=campaign.incumbent)
    assert court.settle(tried).status == "promoted"


def test_chance_does_not_hide_a_gain_over_the_seed_which_nobody_proposed(
    world: World, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    standings = iter([Interval(0.5, -2.0, 2.0), Interval(0.0, -2.0, 2.0), Interval(0.5, -2.0, 2.0)])
    monkeypatch.setattr(fixed_arm, "standing", lambda *_, **__: next(standings))
    assert Court(world, campaign).settle(candidate(campaign, source(200))).status == "promoted"


def test_a_gain_that_shows_beside_the_fixed_arm_is_one_however_large_it_is(
    world: World, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    court = Court(world, campaign)
    assert court.settle(candidate(campaign, source(200))).status == "promoted"
    court.told.clear()
    past, incumbent, own = Interval(0.0, -0.2, 0.2), Interval(-0.2, -0.4, 0.0), Interval(0.5, 0.3, 0.7)
    standings = iter([past, incumbent, own])
    monkeypatch.setattr(fixed_arm, "standing", lambda *_, **__: next(standings))
    outcome = court.settle(candidate(campaign, source(400), generation=2, parent=campaign.incumbent))
    assert outcome.status == "promoted"


def test_a_kernel_that_is_made_for_normal_inputs_is_not_promoted(world: World, campaign: Campaign) -> None:
    """Three times as fast on them, and 1.5 times over all; slower on others."""
    court = Court(world, campaign)
    outcome = court.settle(candidate(campaign, source(300, note=FOR_NORMAL)))
    assert outcome.status == "rejected"
    assert outcome.reason.startswith("slower than the incumbent on spread inputs, 0.750x")
    assert outcome.gain is not None
    assert outcome.gain.exp().estimate == pytest.approx(1.5, abs=0.01)
    assert world.kernel.read_text() == source(100)
    world.changes = {"accept": "match"}
    assert Court(world, campaign).settle(candidate(campaign, source(301, note=FOR_NORMAL))).status == "rejected"
    assert world.kernel.read_text() == source(100)


def test_what_is_likely_made_for_normal_inputs_is_not_promoted_either(world: World, campaign: Campaign) -> None:
    outcome = Court(world, campaign).settle(candidate(campaign, source(300, note=f"{FOR_NORMAL}, {BUSY}")))
    assert outcome.status == "ambiguous"
    assert outcome.reason.startswith("likely slower than the incumbent on spread inputs, 0.75")
    assert outcome.confirmed is not None
    assert outcome.confirmed.low > campaign.floor
    assert world.kernel.read_text() == source(100)


def test_what_looks_faster_once_is_not_promoted(world: World, campaign: Campaign) -> None:
    outcome = Court(world, campaign).settle(candidate(campaign, source(200, confirmed=100)))
    assert (outcome.status, outcome.reason) == ("ambiguous", "not confirmed in fresh processes")
    assert world.kernel.read_text() == source(100)


def test_what_is_wrong_in_fresh_processes_is_wrong(world: World, campaign: Campaign) -> None:
    outcome = Court(world, campaign).settle(candidate(campaign, source(200, result="wrong when fresh")))
    assert outcome.status == "incorrect"
    assert outcome.gain is None
    assert world.kernel.read_text() == source(100)


@pytest.mark.parametrize("outcome", ["incorrect", "crashed", "timeout", "rejected", "unsupported"])
def test_what_fails_its_screening_is_not_measured_again(world: World, campaign: Campaign, outcome: str) -> None:
    assert Court(world, campaign).settle(candidate(campaign, source(900, result=outcome))).status == outcome
    assert len(world.evaluator.requests) == 1


def test_a_tie_is_kept_as_such_unless_matches_are_accepted(world: World, campaign: Campaign) -> None:
    tie = source(100, note="The same speed.").replace("q * SPEED", "SPEED * q")
    assert Court(world, campaign).settle(candidate(campaign, tie)).status == "same"
    world.changes = {"accept": "match"}
    again = candidate(campaign, tie.replace("SPEED * q", "(SPEED * q)"), generation=2)
    assert Court(world, campaign).settle(again).status == "promoted"


def test_the_rule_of_promotion_can_be_somebody_elses(world: World, campaign: Campaign) -> None:
    asked: list[tuple[Attempt, Interval, float]] = []

    def never(attempt: Attempt, confirmed: Interval, floor: float) -> bool:
        asked.append((attempt, confirmed, floor))
        return False

    world.promote = never
    tried = candidate(campaign, source(200))
    assert Court(world, campaign).settle(tried).status == "ambiguous"
    ((attempt, confirmed, floor),) = asked
    assert attempt == tried.attempt
    assert confirmed.exp().estimate == pytest.approx(2.0, rel=0.01)
    assert floor == campaign.floor


def test_a_winner_over_its_parent_must_beat_the_kernel_in_the_file_too(world: World, campaign: Campaign) -> None:
    court = Court(world, campaign)
    slower, faster = candidate(campaign, source(150)), candidate(campaign, source(200), generation=2)
    for each in (court.screen(faster), court.screen(slower)):
        court.settlement.contest([each])
    assert [outcome.status for outcome in court.told] == ["promoted", "kept"]
    assert court.told[1].reason == "1.50x the seed, the best is 2.00x"
    # By their scores alone: the two were not even measured beside each other.
    assert campaign.evaluated.of(slower.attempt, "land") == {}
    assert source(200) in world.kernel.read_text()


def test_what_a_confirmed_sibling_outdoes_is_not_measured_again(world: World, campaign: Campaign) -> None:
    court = Court(world, campaign)
    tried = [candidate(campaign, source(speed), member=n) for n, speed in enumerate((150, 300, 200))]
    court.settlement.contest([court.screen(each) for each in tried])
    found = {outcome.attempt: outcome for outcome in court.told}
    assert [found[each.attempt.id].status for each in tried] == ["slower", "promoted", "slower"]
    assert found[tried[0].attempt.id].reason == "faster than its parent, but slower than generation 1"
    assert campaign.evaluated.of(tried[0].attempt, "confirm") == {}


def test_what_a_sibling_outdoes_is_measured_where_that_is_not_confirmed(world: World, campaign: Campaign) -> None:
    court = Court(world, campaign)
    wrong = candidate(campaign, source(300, result="wrong when fresh"))
    right = candidate(campaign, source(200), member=1)
    court.settlement.contest([court.screen(wrong), court.screen(right)])
    assert [outcome.status for outcome in court.told] == ["incorrect", "promoted"]


def test_what_should_beat_the_kernel_in_the_file_is_measured_beside_it(world: World, campaign: Campaign) -> None:
    court = Court(world, campaign)
    first, second = candidate(campaign, source(200)), candidate(campaign, source(300), generation=2)
    for each in (court.screen(first), court.screen(second)):
        court.settlement.contest([each])
    assert [outcome.status for outcome in court.told] == ["promoted", "promoted"]
    landed = court.told[1]
    assert landed.over == first.attempt.id
    assert landed.landing is not None
    assert landed.landing.exp().estimate == pytest.approx(1.5, rel=0.01)
    assert landed.step == landed.landing.estimate
    land = world.evaluator.requests[-1]
    assert land.baseline is not None
    assert (land.fresh, land.baseline.source) == (True, source(200))
    assert campaign.view.log_score(second.attempt.id) == pytest.approx(math.log(3), rel=0.01)


def test_a_commit_that_git_refuses_leaves_the_promotion_as_it_is(world: World, campaign: Campaign) -> None:
    world.changes = {"commit": True}
    outcome = Court(world, campaign).settle(candidate(campaign, source(200)))
    assert outcome.status == "promoted"
    assert outcome.reason.endswith("not committed")
    assert any("--avo-commit" in line for line in world.said)
    assert source(200) in world.kernel.read_text()


def test_a_promotion_is_committed_where_the_user_wants_that(world: World, campaign: Campaign) -> None:
    for words in (
        ["init", "-q"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@b.example"],
        ["add", "kernels"],
        ["commit", "-q", "-m", "Begin"],
    ):
        subprocess.run(["git", *words], cwd=world.folder, check=True)
    world.changes = {"commit": True}
    outcome = Court(world, campaign).settle(candidate(campaign, source(200)))
    last = ["git", "log", "-1", "--format=%h %s"]
    said = subprocess.run(last, cwd=world.folder, check=True, capture_output=True, text=True).stdout
    commit, _, title = said.strip().partition(" ")
    assert outcome.reason.endswith(f"commit {commit}")
    assert title.startswith("Promote tiny.py, generation 1: 2.0")


def test_what_looked_faster_and_was_not_confirmed_is_ambiguous() -> None:
    assert status_of(Decision("faster", "")) == "ambiguous"
    assert status_of(Decision("slower", "")) == "slower"
