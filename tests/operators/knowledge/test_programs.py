"""Programs recognised under another text."""

from __future__ import annotations

from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.operators.knowledge.programs import Programs
from pytest_avo.operators.operator import Proposal
from tests.operators.steps import SEED, World


def test_a_program_is_recognised_whatever_its_comments(world: World) -> None:
    programs = Programs(world.view)
    source = SEED.replace("100", "90")
    attempt = world.settle(Proposal(source, "slower"))
    assert programs.find(source.replace("SPEED = 90", "SPEED = 90  # the same")) == attempt
    assert programs.find(SEED.replace("100", "91")) is None


def test_unfinished_failed_and_duplicate_attempts_are_not_recognised(world: World) -> None:
    programs = Programs(world.view)
    source = SEED.replace("100", "90")
    world.settle(Proposal(source, "no candidate", failed="junk"), "failed")
    world.settle(Proposal(source, "again"), "duplicate")
    unfinished = world.store.add_attempt(
        run=world.view.run.id,
        generation=3,
        member=0,
        parent=world.incumbent.id,
        source=source,
        operator="agent",
        hypothesis="",
        predicted={},
    )
    assert programs.find(source) is None
    world.store.add_outcome(AttemptOutcome(unfinished.id, "slower"))
    assert programs.find(source) == unfinished
