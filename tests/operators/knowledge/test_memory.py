"""Memory: lessons by words, own kernel first."""

from __future__ import annotations

from pathlib import Path

from pytest_avo.lineage.events import LessonLearnt, PredictionChecked
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.operator import Proposal
from tests.operators.steps import SEED, World


def learn(world: World, text: str, technique: str = "", symptom: str = "") -> None:
    world.record(LessonLearnt(text, technique, symptom, generation=world.generation + 1))


def test_lessons_are_found_by_technique_and_symptom_then_by_text(world: World) -> None:
    learn(world, "Wide tiles spilled registers.", "tile size", "register spills")
    learn(world, "Reading keys once helped.", "grouped heads")
    learn(world, "A tile size of 64 was best after packing.", "packing")
    memory = LessonMemory(world.view)
    assert [each.technique for each in memory.recall("what about tile size?", limit=2)] == ["tile size", "packing"]
    assert memory.recall("spills", limit=1)[0].symptom == "register spills"


def test_what_fits_nothing_is_filled_up_with_the_newest(world: World) -> None:
    for number in range(5):
        learn(world, f"Lesson number {number} about something.")
    texts = [each.text for each in LessonMemory(world.view).recall("unheard of", limit=2)]
    assert texts == ["Lesson number 4 about something.", "Lesson number 3 about something."]
    assert LessonMemory(world.view).recall("", limit=0) == []


def test_lessons_come_in_while_the_run_goes_on(world: World) -> None:
    memory = LessonMemory(world.view)
    assert memory.recall("packing", limit=3) == []
    learn(world, "Packing the keys paid off.", "packing")
    assert [str(each) for each in memory.recall("packing", limit=3)] == ["g0001 (packing): Packing the keys paid off."]


def test_a_lesson_is_amended_with_the_verdict(world: World) -> None:
    learn(world, "Packing the keys should pay off.", "packing")
    memory = LessonMemory(world.view)
    assert "ended" not in str(memory.recall("packing", limit=1)[0])
    world.settle(Proposal(SEED.replace("100", "90"), "pack the keys"), "slower", gain=-0.1)
    ended = "[its step ended slower, 0.905x [0.896, 0.914] over its parent]"
    told = f"g0001 (packing): Packing the keys should pay off. {ended}"
    assert str(memory.search("packing", limit=1)[0]) == told
    later = LessonMemory(World(world.store).view)
    assert str(later.recall("packing", limit=1)[0]).endswith(ended)


def test_a_comparison_is_a_lesson_too(world: World) -> None:
    attempt = world.settle(Proposal(SEED.replace("100", "90"), "fuse the softmax"))
    world.record(PredictionChecked(attempt.id, "geomean predicted 1.2, measured 0.9: too high"))
    (lesson,) = LessonMemory(world.view).recall("softmax", limit=3)
    assert str(lesson) == "g0001 (prediction): fuse the softmax: geomean predicted 1.2, measured 0.9: too high"


def test_a_lesson_that_two_runs_recorded_is_told_once(world: World) -> None:
    learn(world, "Packing the keys paid off.", "packing")
    later = World(world.store)
    learn(later, "Packing the keys paid off.", "packing")
    learn(later, "Packing the queries did not.", "packing")
    texts = [each.text for each in LessonMemory(World(world.store).view).recall("packing", limit=5)]
    assert sorted(texts) == ["Packing the keys paid off.", "Packing the queries did not."]


def test_earlier_runs_teach_but_the_own_kernel_comes_first(world: World) -> None:
    learn(world, "Packing helped the other kernel.", "packing")
    earlier = World(world.store, kernel=Path("/project/kernels/other.py"))
    learn(earlier, "Packing and packing and packing helped.", "packing")
    memory = LessonMemory(World(world.store).view)
    origins = [each.origin for each in memory.recall("packing", limit=5)]
    assert origins == ["run 1 of tiny.py, g0001", "run 2 of other.py, g0001"]
