"""An evolution from its seed to its end, against an evaluator that answers at once."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.kernel import read_kernel
from pytest_avo.evolution import loop as loop_module
from pytest_avo.evolution.conclusion import summary
from pytest_avo.evolution.decision import Decision
from pytest_avo.evolution.trials import Trial
from pytest_avo.lineage.events import Resumed, SeedComparison
from pytest_avo.operators.budget import Budget
from pytest_avo.operators.operator import OperatorStopped, Proposal, Task
from tests.evolution.world import FIRST, SECOND, SHAPES, Operator, World, proposal, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_winner_lands_in_the_file_and_the_rest_is_turned_down_with_a_reason(world: World) -> None:
    statuses = world.evolve(
        proposal(source(900, result="incorrect"), "wrong is fast"),
        proposal("def attention(:", "a syntax error"),
        proposal(source(50), "slower"),
        proposal(source(200), "faster", lesson="less is more"),
    )
    assert statuses == ["seed", "incorrect", "crashed", "slower", "promoted"]
    assert "SPEED, FRESH, RESULT = 200, 200" in world.kernel.read_text()
    assert world.kernel.read_text().startswith("# avo: digest=")
    assert world.said[0].startswith("starting run 1: kernels/tiny.py, 4 generations, seed 7, operator scripted")
    told = "\n".join(world.said)
    assert f"generation 1: incorrect  {FIRST}: is incorrect (2 of 2 shapes)" in told
    assert "generation 2: crashed" in told
    assert "generation 4: promoted  2.0" in told
    assert "(2.00x the seed) now in kernels/tiny.py" in told
    assert "timing the best kernel beside its peers" in told
    assert world.evaluator.requests[-1].baseline is None, "how it stands beside the seed was its confirmation"


def test_the_seed_beside_itself_gives_the_noise_floor(world: World) -> None:
    assert world.evolve(None) == ["seed"]
    (screening,) = world.evaluator.requests
    assert screening.baseline is not None
    assert screening.baseline.source == screening.subject.source
    assert screening.plan is not None
    assert screening.plan.margin is None
    assert any(line.startswith("noise floor 0.30%") for line in world.said)


def test_a_seed_that_is_no_good_ends_the_run(world: World) -> None:
    world.kernel.write_text(source(100, result="incorrect"))
    assert world.evolve(proposal(source(200))) == ["incorrect"]
    assert world.said[-2].startswith("the seed is no good, nothing to evolve from: incorrect: ")
    assert world.evolve(proposal(source(200)), resume=True) == ["incorrect"]
    assert len(world.evaluator.requests) == 1


def test_a_seed_that_the_machine_cannot_time_is_not_called_no_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loop_module, "decide", lambda *_, **__: Decision("ambiguous", "3 rounds in 30 s, a verdict takes 5")
    )
    with world.loop(Operator({})) as loop:
        loop.run()
        assert loop.is_untimed
        assert world.statuses(loop.campaign) == ["ambiguous"]
    assert any(
        line.startswith("the seed cannot be timed: 3 rounds in 30 s, a verdict takes 5; a new run")
        for line in world.said
    )


def test_the_same_program_is_not_evaluated_twice(world: World) -> None:
    statuses = world.evolve(proposal(source(50)), proposal(source(50, note="Under another comment.")))
    assert statuses == ["seed", "slower", "duplicate"]
    assert "generation 2: duplicate  same program as generation 1" in world.said
    assert len(world.evaluator.requests) == 2


def test_a_proposal_that_failed_is_recorded_and_not_evaluated(world: World) -> None:
    statuses = world.evolve(proposal(source(200), failed="the model gave up"))
    assert statuses == ["seed", "failed"]
    assert len(world.evaluator.requests) == 1


@pytest.mark.parametrize("name", ["twenty thousand signs", "half a character", "another target", "no claim"])
def test_no_source_ends_an_evolution(world: World, name: str) -> None:
    """Each is its attempt's failure, and the run can be resumed."""
    good = source(150)
    bad = {
        "twenty thousand signs": good + "x = " + "-" * 20000 + "1\n",
        "half a character": good + "x = '\ud800'\n",
        "another target": good.replace('"cpu"', '"sm90"'),
        "no claim": good.replace("AVO = ", "OTHER = "),
    }[name]
    statuses = world.evolve(proposal(bad), proposal(source(200)))
    assert statuses[1] in ("failed", "crashed")
    assert statuses[2] == "promoted"
    assert world.evolve(resume=True)[:3] == statuses


def test_the_run_ends_when_the_operator_has_nothing_left(world: World) -> None:
    assert world.evolve(proposal(source(50)), None, proposal(source(200))) == ["seed", "slower"]
    assert "generation 2: scripted has nothing left to try" in world.said


def test_what_an_operator_raises_ends_the_run_and_it_can_be_resumed(world: World) -> None:
    with pytest.raises(EvaluatorError, match="the operator failed in generation 2: ZeroDivisionError: of mine"):
        world.evolve(proposal(source(50)), ZeroDivisionError("of mine"))
    assert world.evolve(None, proposal(source(200)), resume=True) == ["seed", "slower", "promoted"]
    assert "resuming run 1: kernels/tiny.py, 2 generations, seed 7, operator scripted" in world.said


def test_an_operator_that_stops_does_not_lose_what_others_proposed(world: World) -> None:
    with pytest.raises(OperatorStopped, match="enough"):
        world.evolve([OperatorStopped("enough"), proposal(source(200))], population=2)
    assert "SPEED, FRESH, RESULT = 200" in world.kernel.read_text()
    assert world.evolve([proposal(source(400))], population=2, resume=True) == ["seed", "promoted", "promoted"]


def test_a_usage_error_of_one_member_comes_before_failures_of_others(world: World) -> None:
    with pytest.raises(InvalidInput, match="no such model"):
        world.evolve([ZeroDivisionError(), InvalidInput("no such model"), OperatorStopped("x")], population=3)


def test_a_lost_evaluator_ends_the_run_and_the_candidate_is_tried_again(world: World) -> None:
    lost = source(200, result="lost")
    with pytest.raises(EvaluatorError, match="the worker was lost"):
        world.evolve(proposal(lost))
    asked = len(world.evaluator.requests)
    with pytest.raises(EvaluatorError):
        world.evolve(proposal(source(300)), resume=True)
    # What is asked once more is what had been proposed: nothing new is, while an attempt is unfinished.
    assert [request.subject.source for request in world.evaluator.requests[asked:]] == [lost]


def test_a_resumed_run_takes_what_it_knows_and_goes_on(world: World) -> None:
    world.evolve(proposal(source(50)))
    asked = len(world.evaluator.requests)
    assert world.evolve(None, proposal(source(60)), resume=True) == ["seed", "slower", "slower"]
    (screening,) = world.evaluator.requests[asked:]
    assert screening.subject.source == source(60)


def test_candidates_are_screened_beside_their_parent_and_peers_and_confirmed_alone_in_fresh_processes(
    world: World,
) -> None:
    world.evolve(proposal(source(200)))
    _, screening, confirmation, final = world.evaluator.requests
    assert (screening.fresh, screening.peers) == (False, ("torch-sdpa",))
    assert screening.plan is not None
    assert screening.plan.margin == pytest.approx(0.003)
    assert (confirmation.fresh, confirmation.peers) == (True, ())
    assert confirmation.plan is not None
    assert (confirmation.plan.launches, confirmation.plan.margin) == (6, 0.003)
    assert (final.fresh, final.peers) == (True, ("torch-sdpa",))
    assert [request.target for request in world.evaluator.requests] == ["cpu"] * 4


def test_every_screening_is_presented_before_anything_follows_from_it(world: World) -> None:
    shown: list[str] = []

    def show(trial: Trial) -> None:
        shown.append(trial.candidate.kernel.source)
        if len(shown) == 2:
            raise KeyboardInterrupt

    world.present = show
    with world.loop(Operator({(1, 0): proposal(source(200))})) as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        assert shown == [source(100), source(200)]
        assert world.statuses(loop.campaign) == ["seed"]
        assert loop.campaign.evaluated.of(loop.campaign.view.attempts()[1], "screen") == {}


def test_the_finish_of_a_generation_is_told_with_verdicts_against_the_parent(world: World) -> None:
    world.evolve(proposal(source(50)), proposal(source(200)))
    assert [told[:2] for told in world.finished] == [(1, 0), (2, 0)]
    assert [{shape: x.kind for shape, x in told[2].items()} for told in world.finished] == [
        {FIRST: "slower", SECOND: "slower"},
        {FIRST: "faster", SECOND: "faster"},
    ]


def test_how_fast_the_best_kernel_is_was_measured_beside_the_seed_and_nothing_else_is_said(world: World) -> None:
    steps = {(1, 0): proposal(source(200)), (2, 0): proposal(source(400))}
    world.changes = {"generations": 2}
    with world.loop(Operator(steps)) as loop:
        loop.run()
        assert [row.verdict.kind for row in loop.final] == ["faster"] * len(SHAPES)
        assert loop.final[0].verdict.baseline is not None
        assert loop.final[0].verdict.baseline.ratio == pytest.approx(4.0, rel=0.01)
        assert loop.campaign.view.log_score(loop.campaign.incumbent.id) == pytest.approx(math.log(4), rel=0.01)
        told = [event.fact for event in loop.campaign.view.events(SeedComparison)]
        assert [(round(each.ratio), each.by_steps) for each in told] == [(2, False), (4, True), (4, False)]
        assert (told[1].high - told[1].low) / 4 >= (told[0].high - told[0].low) / 2, "errors of steps add up"
    said = "\n".join(world.said)
    assert "(2.00x the seed) now in" in said
    assert "(4.00x the seed by its steps) now in" in said
    closing = world.evaluator.requests[-1]
    assert closing.baseline is not None
    assert (closing.baseline.source, closing.peers) == (source(100), ("torch-sdpa",))
    asked = len(world.evaluator.requests)
    world.changes |= {"resume": True}
    with world.loop(Operator(steps)) as loop:
        loop.run()
    (again,) = world.evaluator.requests[asked:]
    assert again.baseline is None, "what was measured at the end of a run is not measured again"


def test_a_run_that_ends_early_says_of_its_best_kernel_that_it_is_multiplied_up(world: World) -> None:
    known = {(1, 0): proposal(source(200)), (2, 0): proposal(source(400))}
    world.changes = {"generations": 3}
    with world.loop(Operator({**known, (3, 0): OperatorStopped("enough")})) as loop:
        with pytest.raises(OperatorStopped):
            loop.run()
        found = summary(loop.campaign, wall_s=1.0, resume_hint="")
    assert found.by_steps
    assert found.best_ratio is not None
    assert found.best_ratio.estimate == pytest.approx(4.0, rel=0.01)


def test_the_rows_of_the_best_kernel_repeat_its_confirmation_and_add_the_peers(world: World) -> None:
    world.changes |= {"generations": 1}
    with world.loop(Operator({(1, 0): proposal(source(200), "with \0, half \ud83d")})) as loop:
        loop.run()
        assert loop.final == []
        outcomes = loop.campaign.view.outcomes()
        assert [outcome.status for outcome in outcomes.values()] == ["seed", "failed"]
    world.changes |= {"generations": 2, "resume": True}
    with world.loop(Operator({(2, 0): proposal(source(200), "with \0")})) as loop:
        loop.run()
        assert loop.campaign.incumbent.hypothesis == "with \\x00"
        assert [row.verdict.kind for row in loop.final] == ["faster", "faster"]
        total = loop.campaign.view.events(SeedComparison)[-1].fact
        ratios = [row.verdict.baseline.ratio for row in loop.final if row.verdict.baseline]
        assert math.prod(ratios) ** (1 / len(ratios)) == pytest.approx(total.ratio)
        assert all("torch-sdpa" in row.verdict.peers for row in loop.final)


def test_a_resumed_run_says_what_it_does_otherwise_and_who_proposed_what(world: World) -> None:
    world.evolve(proposal(source(50)), operator="one:Operator")
    world.changes |= {"resume": True, "generations": 2, "operator": "another:Operator"}
    other = Operator({(2, 0): proposal(source(200))}, name="another")
    with world.loop(other) as loop:
        loop.run()
        view = loop.campaign.view
        assert [attempt.operator for attempt in view.attempts()] == ["scripted", "scripted", "another"]
        (resumed,) = view.events(Resumed)
        expected = {"generations": "2", "named-operator": "another:Operator", "operator": "another"}
        assert resumed.fact.changed == expected
        assert view.run.settings["max-rounds"] == "6"
    assert "operator=another" in world.kernel.read_text().splitlines()[0]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InvalidInput, match="winners are written to its place, and "):
        world.evolve(proposal(source(200)))
    assert not (world.folder / ".avo").exists()


def test_a_commit_that_git_will_refuse_is_said_before_anything_is_measured(world: World) -> None:
    with pytest.raises(InvalidInput, match="--avo-commit: "):
        world.evolve(proposal(source(200)), commit=True)
    assert world.evaluator.requests == []


def test_shapes_in_another_order_are_the_same_shapes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.evolve(proposal(source(50)))
    monkeypatch.setattr("tests.evolution.world.SHAPES", SHAPES[::-1])
    assert world.evolve(proposal(source(50)), proposal(source(200)), resume=True) == ["seed", "slower", "promoted"]


def test_a_population_is_screened_at_the_same_time_and_its_winners_settled_one_after_the_other(world: World) -> None:
    statuses = world.evolve([proposal(source(200)), proposal(source(300)), proposal(source(150))], population=3)
    # The others beat their parent, but not their sibling: a second measurement would tell nothing new.
    assert statuses == ["seed", "slower", "promoted", "slower"]
    assert "SPEED, FRESH, RESULT = 300" in world.kernel.read_text()
    fresh = [request.fresh for request in world.evaluator.requests]
    assert fresh == [False, False, False, False, True, True]
    said = "faster than its parent, but slower than generation 1.1"
    assert f"generation 1.2: slower  1.500x [1.500, 1.500]  {said}" in "\n".join(world.said)


def test_a_budget_of_evaluations_ends_the_run_before_it_is_passed(world: World) -> None:
    with pytest.raises(OperatorStopped, match="budget exhausted"):
        world.evolve(*[proposal(source(90 - n)) for n in range(5)], budget=Budget(max_evaluations=8))
    # Each candidate may take four: two shapes screened, and confirmed.
    asked = sum(len(request.shapes) for request in world.evaluator.requests[1:])
    assert asked == 6


def test_a_draft_is_evaluated_for_the_operator_and_counts_for_nothing(world: World) -> None:
    verdicts = []

    def step(task: Task) -> Proposal:
        verdicts.append(task.evaluate(source(200), task.shapes[:1], timed=True)[FIRST].verdict.kind)
        return proposal(source(50))

    assert world.evolve(step) == ["seed", "slower"]
    assert verdicts == ["faster"]


def test_the_file_that_somebody_edited_meanwhile_is_not_overwritten(world: World) -> None:
    def step(_: Task) -> Proposal:
        world.kernel.write_text(source(101))
        return proposal(source(200))

    with pytest.raises(InvalidInput, match="was edited since this run began"):
        world.evolve(step)
    assert read_kernel(world.kernel).source == source(101)


def test_what_an_operator_must_not_answer_ends_the_run_which_can_be_resumed(world: World) -> None:
    def mistaken(task: Task) -> Proposal:
        return task.kernel.source  # type: ignore[return-value]

    with pytest.raises(EvaluatorError, match="generation 1: TypeError: expected a Proposal or None, got str"):
        world.evolve(mistaken)
    with pytest.raises(EvaluatorError, match=r"ZeroDivisionError: .* by zero \(.*test_loop.py, line \d+\)"):
        world.evolve(lambda task: proposal(source(1 // (task.generation - 1))), resume=True)
    odd = {"geomean": math.nan, "other": 2}
    assert world.evolve(proposal(source(200), predicted=odd), resume=True) == ["seed", "promoted"]


@pytest.mark.parametrize("head", ["", "# coding: latin-1\n# → faster\n", "\ufeff"])
def test_a_winner_is_the_text_that_its_file_holds_whatever_its_line_ends_and_encoding(world: World, head: str) -> None:
    winner = (head + source(200)).replace("\n", "\r\n")
    assert world.evolve(proposal(winner), proposal(source(300))) == ["seed", "promoted", "promoted"]
