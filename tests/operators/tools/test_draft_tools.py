"""Tools of the draft as a model calls them: what is wrong is the answer, and costs no more than it must."""

from __future__ import annotations

from pytest_avo.operators.operator import Proposal
from tests.operators.agent.answers import FASTER, SUBMIT, WRONG, Make, Serve, proposed
from tests.operators.model_server import Body, calls, edit
from tests.operators.steps import FIRST, SECOND, SEED, World


def test_malformed_calls_are_answered_one_by_one(world: World, serve: Serve, agent: Make) -> None:
    model = serve(
        [
            calls(
                ("edit_draft", '{"replacements": [{"search": "SPEED'),
                ("edit_draft", "[" * 20_000),
                ("record_lesson", {"text": "Smileys are cut \ud83d in two.", "technique": "smileys"}),
                ("edit_drafts", {}),
                ("evaluate_draft", {"shapes": "many"}),
                ("evaluate_draft", {"shape": FIRST}),
                ("evaluate_draft", {"shapes": ["b1-h2"]}),
                ("read_version", {"version": "g0042"}),
                ("read_knowledge", {"file": "hoper.md"}),
                ("profile_draft", {}),
                FASTER,
            ),
            calls(SUBMIT, ("read_draft", {})),
        ]
    )
    assert proposed(agent(model), world).failed == ""
    answers = model.results(1)
    expected = [
        "not valid JSON",
        "nested too deeply",
        "half of a surrogate pair",
        "did you mean edit_draft?",
        "there is no shape 'many'",
        "unknown field shape",
        f"there is no shape 'b1-h2': expected one of {SECOND}, {FIRST}",
        "there is no version 'g0042'",
        "hopper-architecture.md",
        "not available here: no such tool for a CPU",
        "the draft has 10 lines now: +1 -1",
    ]
    for answer, part in zip(answers, expected, strict=True):
        assert part in answer
    assert world.evaluated == [SECOND], "the check that a submission gets"


def test_a_contract_broken_in_the_text_costs_no_evaluation(world: World, serve: Serve, agent: Make) -> None:
    model = serve(
        [
            calls(edit('"cpu"', '"sm90"'), ("evaluate_draft", {})),
            calls(("write_draft", {"source": "def attention(:"}), ("evaluate_draft", {})),
            calls(("reset_draft", {}), FASTER, SUBMIT),
        ]
    )
    proposed(agent(model), world)
    for result in (*model.results(1), *model.results(2)):
        assert "expected target cpu" in result or "syntax error" in result
    assert world.evaluated == [SECOND], "what is submitted unchecked is checked on the smallest shape"


def test_a_wrong_draft_is_submitted_only_when_insisted_on(world: World, serve: Serve, agent: Make) -> None:
    model = serve([calls(WRONG, SUBMIT), calls(SUBMIT)])
    proposal = proposed(agent(model), world)
    assert 'RESULT = "wrong"' in proposal.source
    assert "not submitted yet" in model.results(1)[-1]
    assert "max error 0.5" in model.results(1)[-1]


def test_no_change_and_wrong_predictions_are_refused(world: World, serve: Serve, agent: Make) -> None:
    def predicting(predicted: dict[str, float]) -> tuple[str, Body]:
        return "submit", {"hypothesis": "the loop was the bottleneck", "predicted": predicted}

    model = serve(
        [
            calls(
                SUBMIT,
                edit("SPEED = 100", "SPEED = 100  # fast"),
                SUBMIT,
                FASTER,
                predicting({"geo": 1.1}),
                predicting({FIRST: 0}),
            ),
            calls(predicting({FIRST: 1.1, SECOND: 0.99})),
        ]
    )
    assert proposed(agent(model), world).predicted == {FIRST: 1.1, SECOND: 0.99}
    same, _, commented, _, unknown, zero = model.results(1)
    assert "nothing to submit" in same
    assert "nothing to submit" in commented
    assert "there is no 'geo'" in unknown
    assert "above zero" in zero


def test_a_program_tried_before_is_answered_from_the_lineage(world: World, serve: Serve, agent: Make) -> None:
    tried = SEED.replace("100", "99")
    world.settle(Proposal(tried, "a little slower"))
    model = serve(
        [
            calls(edit("SPEED = 100", "SPEED = 99  # said differently"), ("evaluate_draft", {"timed": True}), SUBMIT),
            calls(SUBMIT),
        ]
    )
    proposal = proposed(agent(model), world)
    assert proposal.source == tried, "under the earlier text, which the loop recognises"
    assert world.evaluated == []
    _, scores, warning = model.results(1)
    assert "0.990x" in scores
    assert "same program as an earlier attempt" in warning
    assert "g0001 | same" in warning
