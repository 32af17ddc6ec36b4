"""An evolution as its lineage has it: begun, resumed, and what is found in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.stats import Interval
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.lineage.view import View, runs
from tests.evolution.world import World, measured_seed, proposal, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def campaign(world: World) -> Iterator[Campaign]:
    opened = world.open()
    yield opened
    opened.close()


def test_a_campaign_begins_with_the_file_as_it_is(world: World, campaign: Campaign) -> None:
    seed = campaign.incumbent
    assert campaign.view.source(seed.digest) == source(100)
    assert (seed.generation, seed.parent, seed.hypothesis) == (0, None, "the seed")
    assert (campaign.plan.name, campaign.run.seed) == ("kernels/tiny.py", 7)
    assert not campaign.has_floor


def test_the_noise_floor_is_known_once_the_seed_is_measured(campaign: Campaign) -> None:
    seed = measured_seed(campaign)
    assert campaign.has_floor
    assert campaign.floor == pytest.approx(0.003)
    assert campaign.view.outcome(seed.id) == AttemptOutcome(seed.id, "seed")


def test_what_is_not_there_cannot_be_resumed(world: World) -> None:
    world.changes = {"resume": True}
    with pytest.raises(InvalidInput, match=r"--avo-resume: expected a run of kernels/tiny.py in .*, there is none"):
        world.open()


def test_a_run_that_was_stopped_before_its_seed_is_no_run(world: World) -> None:
    campaign = world.open()
    columns = "kernel, target, operator, seed, shapes, fingerprint, started, settings"
    with sqlite3.connect(campaign.store.path) as lineage:
        lineage.execute(f"INSERT INTO run ({columns}) SELECT {columns} FROM run")
    campaign.close()
    lineage.close()
    world.changes = {"resume": True}
    resumed = world.open()
    assert (len(runs(resumed.store.path)), resumed.run.id) == (2, 1)
    resumed.close()


@pytest.mark.parametrize(("option", "value"), [("population", 2), ("islands", 2)])
def test_a_run_is_resumed_in_its_own_size(world: World, campaign: Campaign, option: str, value: int) -> None:
    world.changes = {"resume": True, option: value}
    with pytest.raises(InvalidInput, match=f"--avo-resume: run 1 has --avo-{option}=1, got {value}"):
        world.open()


def test_a_file_that_was_edited_since_is_not_resumed(world: World, campaign: Campaign) -> None:
    world.changes = {"resume": True}
    world.kernel.write_text(source(101))
    with pytest.raises(InvalidInput, match="was edited since this run began"):
        world.open()


def test_a_winner_that_landed_before_a_kill_is_no_edit(world: World, campaign: Campaign) -> None:
    campaign.add(proposal(source(200)), generation=1, member=0, parent=campaign.incumbent)
    world.kernel.write_text(source(200))
    world.changes = {"resume": True}
    with pytest.raises(InvalidInput, match="--avo-resume: run 1 goes on in another process"):
        world.open()
    campaign.close()
    resumed = world.open()
    assert resumed.run == campaign.run
    resumed.close()


def test_an_earlier_attempt_that_is_the_same_program_is_found(campaign: Campaign) -> None:
    seed = campaign.incumbent
    first, none = campaign.add(proposal(source(200)), generation=1, member=0, parent=seed)
    campaign.settle(AttemptOutcome(first.id, "slower"), first)
    _, same_text = campaign.add(proposal(source(200)), generation=2, member=0, parent=seed)
    _, same_program = campaign.add(proposal(source(200, note="Told better.")), generation=3, member=0, parent=seed)
    assert none is None
    assert (same_text, same_program) == (first, first)


def test_an_outcome_carries_what_its_own_proposal_cost(campaign: Campaign) -> None:
    seed = campaign.incumbent
    first, _ = campaign.add(
        proposal(source(200), tokens_in=90, tokens_out=9, cost=0.5, lesson="pack"), generation=1, member=0, parent=seed
    )
    second, _ = campaign.add(proposal(source(300), tokens_in=10), generation=1, member=1, parent=seed)
    settled = [campaign.settle(AttemptOutcome(each.id, "slower"), each) for each in (second, first)]
    assert [(x.tokens_in, x.tokens_out, x.cost, x.lesson) for x in settled] == [(10, 0, 0.0, ""), (90, 9, 0.5, "pack")]


def test_the_incumbent_is_what_was_promoted_last(campaign: Campaign) -> None:
    better, _ = campaign.add(proposal(source(200)), generation=1, member=0, parent=campaign.incumbent)
    campaign.settle(AttemptOutcome(better.id, "promoted", confirmed=Interval(0.7, 0.6, 0.8)), better)
    assert campaign.incumbent == better
    assert campaign.parents(2) == {0: better}


def test_attempts_are_called_by_generation_and_by_member_where_there_are_several(world: World) -> None:
    for population, label, prefix in ((1, "3", "gen0003-"), (2, "3.0", "gen0003m0-")):
        world.changes = {"population": population}
        opened = world.open()
        attempt, _ = opened.add(proposal(source(200)), generation=3, member=0, parent=opened.incumbent)
        assert (opened.label(attempt), opened.prefix(attempt)) == (label, prefix)
        assert opened.prefix(opened.view.attempts()[0]) == "gen0000-"
        opened.close()


def test_a_variant_that_broke_its_declarations_has_a_fault(campaign: Campaign) -> None:
    broken, _ = campaign.add(proposal("AVO = 3\n"), generation=1, member=0, parent=campaign.incumbent)
    assert "AVO" in campaign.kernel(broken).fault


def test_a_run_goes_on_with_the_best_kernel_of_the_last_one(world: World) -> None:
    assert world.evolve(proposal(source(200), "keys in larger blocks")) == ["seed", "promoted"]
    world.changes = {"transfer": True}
    campaign = world.open()
    seed = campaign.incumbent
    assert campaign.run.id == 2
    assert campaign.run.settings["transfer"] == "generation 1 of run 1"
    assert seed.hypothesis == "the seed, generation 1 of run 1: keys in larger blocks"
    assert campaign.view.source(seed.digest) == source(200)
    campaign.close()


def test_a_transferred_run_evolves_and_is_resumed_like_any_other(world: World) -> None:
    world.evolve(proposal(source(200)))
    assert world.evolve(proposal(source(300)), transfer=True) == ["seed", "promoted"]
    assert world.evolve(proposal(source(300)), proposal(source(450)), resume=True) == ["seed", "promoted", "promoted"]
    assert View(world.settings.store / "lineage.sqlite3", 2).run.settings["transfer"] == "generation 1 of run 1"


def test_a_kernel_that_was_never_evolved_has_nothing_to_transfer(world: World) -> None:
    world.changes = {"transfer": True}
    with pytest.raises(InvalidInput, match=r"--avo-transfer: expected an evolution of kernels/tiny\.py to go on from"):
        world.open()
    assert not (world.settings.store / "lineage.sqlite3").exists(), "nothing was begun"


def test_a_file_that_is_not_the_best_kernel_is_not_transferred(world: World) -> None:
    world.evolve(proposal(source(200)))
    world.kernel.write_text(source(201))
    world.changes = {"transfer": True}
    with pytest.raises(
        InvalidInput, match=r"tiny\.py: expected the best kernel of run 1 .*`avo restore incumbent` brings it back"
    ):
        world.open()
