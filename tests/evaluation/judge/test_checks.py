"""What a kernel is asked before it is timed, and what calls take of a limit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from pytest_avo.core.evaluation import Limits, TimingPlan
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.arms.faults import KernelRaised
from pytest_avo.evaluation.judge.checks import _Spent
from tests.evaluation.correctness.extensions import everything
from tests.evaluation.judge.desk import ONE, TWO, WRONG_ON_TWO, Desk
from tests.evaluation.laboratory import kernel, shape

NOTHING = torch.empty(0)
LARGER = shape(lengths=(192, 192))
"""Of the class of ONE."""


def test_what_calls_take_is_left_to_later_ones_no_more_whether_answered_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    spent, given = _Spent(2.0), []

    def answered(*, limit_s: float) -> Slice:
        given.append(limit_s)
        return Slice(0.5, 0.5, False, lambda _: NOTHING, lambda: NOTHING, lambda _: NOTHING)

    def refused(*, limit_s: float) -> Slice:
        nonlocal now_s
        given.append(limit_s)
        now_s += 0.25
        raise KernelRaised("unsupported", "no")

    spent.on(answered)
    with pytest.raises(KernelRaised):
        spent.on(refused)
    for _ in range(4):
        spent.on(answered)
    assert given == [2.0, 1.5, 1.25, 0.75, 0.25, 0.001]


def test_what_a_kernel_claims_beside_the_plain_call_is_checked_too(desk: Desk) -> None:
    source = Path(everything.__file__).read_text()
    assert desk.examine(source, shapes=[ONE])[ONE.id].reason == ""
    said = " ".join(desk.said)
    assert "varlen, claimed lengths" in said
    assert "paged, claimed lengths" in said
    wrong = source.replace("k_cache.shape[1]\n", "k_cache.shape[1]\n    causal = True\n")
    found = desk.examine(wrong, shapes=[ONE])[ONE.id]
    assert found.outcome == "incorrect"
    assert "(paged, " in found.reason
    refusing = source.replace("def attention_varlen", "attention_varlen = None\n\n\ndef unused")
    assert desk.examine(refusing, shapes=[ONE])[ONE.id].outcome == "crashed"


def test_a_kernel_may_be_asked_about_its_claim_alone(desk: Desk) -> None:
    wrong_beside = kernel("if q.shape[2] != 48: return torch.zeros_like(q)")
    assert desk.examine(wrong_beside, claim_alone=True)[ONE.id].outcome == "ok"
    assert {line.rpartition(": ")[2] for line in desk.said} == {"normal", "needle, layouts that differ"}
    assert desk.examine(wrong_beside)[ONE.id].outcome == "incorrect"


def test_what_a_screening_does_not_ask_of_the_larger_shapes_of_a_class_is_asked_otherwise(desk: Desk) -> None:
    honest = Path(everything.__file__).read_text()
    wrong = honest.replace(
        "return (out, scores.logsumexp(-1))", "return (out, scores.logsumexp(-1) + (k.shape[2] > 150))"
    )
    for source, at_larger in ((honest, "ok"), (wrong, "incorrect")):
        desk.said.clear()
        assert {x.outcome for x in desk.examine(source, shapes=[LARGER, ONE], claim_alone=True).values()} == {"ok"}
        asked = [line.rpartition(": ")[2] for line in desk.said if LARGER.id in line]
        assert asked == ["normal", "needle, layouts that differ"]
        assert [line.rpartition(": ")[2] for line in desk.said if ONE.id in line].count("paged, claimed lengths") == 1
        found = desk.examine(source, shapes=[LARGER], claim_alone=True)  # with no smaller one beside it
        assert found[LARGER.id].outcome == at_larger
        for claim_alone, known_right in ((False, False), (True, True)):  # a confirmation's, a gate's
            found = desk.examine(source, shapes=[LARGER, ONE], claim_alone=claim_alone, known_right=known_right)
            assert found[LARGER.id].outcome == at_larger


@pytest.mark.parametrize(
    "wrong",
    [
        "k = k.clone(); k[:, -1, 40] = 0",
        "out = honest(q, k, v, causal=causal, scale=scale); out[:, 1, 128:] = 0",
        "out = honest(q, k, v, causal=causal, scale=scale); out[:, 1, 128:] *= 1.01",
        "k = k.to(torch.float8_e4m3fn).float()",
        "scale *= 1.01",
        "q, k = q.bfloat16().float(), k.bfloat16().float()",
        "k, v = k[:, :, :-1], v[:, :, :-1]",
    ],
)
def test_a_screening_finds_what_is_wrong_at_a_larger_shape_of_a_class_alone(desk: Desk, wrong: str) -> None:
    """wrong: what a kernel does there; it returns `out`, or computes with what was changed."""
    body = f"out = None\nif k.shape[2] == {LARGER.seqlen_kv}:\n    {wrong}\nif out is not None: return out"
    found = desk.examine(kernel(body), shapes=[ONE, LARGER], claim_alone=True)
    assert [found[shape.id].outcome for shape in (ONE, LARGER)] == ["ok", "incorrect"]
    assert found[LARGER.id].reason.endswith(("(normal)", "(needle, layouts that differ)"))


def test_a_brief_check_asks_two_plain_calls_of_every_shape(desk: Desk) -> None:
    late = kernel(f"if calls > {2 * len((ONE, LARGER))}: raise RuntimeError('asked more')")
    found = desk.examine(late, shapes=[ONE, LARGER], claim_alone=True, brief=True)
    assert [found[shape.id].outcome for shape in (ONE, LARGER)] == ["ok", "ok"]
    assert {line.rpartition(": ")[2] for line in desk.said} == {"normal", "needle, layouts that differ"}
    assert desk.examine(late, shapes=[ONE, LARGER], claim_alone=True)[ONE.id].outcome == "crashed"


@pytest.mark.parametrize("call", [1, 2])
def test_a_brief_check_looks_at_all_of_both_answers(desk: Desk, call: int) -> None:
    body = f"""
        if calls == {call}:
            out = honest(q, k, v, causal=causal, scale=scale)
            out[:, 1, -1] *= 1.01
            return out
    """
    found = desk.examine(kernel(body), claim_alone=True, brief=True)[ONE.id]
    assert found.outcome == "incorrect"
    assert found.reason.endswith(("(normal)", "(needle, layouts that differ)")[call - 1])


def test_a_kernel_that_is_briefly_right_is_not_timed_wrong(desk: Desk) -> None:
    wrong_later = kernel("if calls > 2: return torch.zeros_like(q)")
    found = desk.examine(wrong_later, plan=TimingPlan(max_rounds=5), baseline=kernel(), brief=True)[ONE.id]
    assert (found.outcome, found.timing) == ("incorrect", None)
    assert found.reason.endswith("(a timed call)")


def test_a_confirmed_kernel_that_is_wrong_after_twenty_calls_in_a_row_is_found_before_it_is_timed(desk: Desk) -> None:
    sizes = [(each.seqlen_q, each.seqlen_kv) for each in (ONE, TWO)]
    wrong = kernel(
        f"""
        global row
        row = row + 1 if (q.shape[2], k.shape[2]) in {sizes} else 0
        if row > 20:
            return torch.zeros_like(q)
        """,
        top="row = 0",
    )
    plan = TimingPlan(max_rounds=3)
    found = desk.examine(wrong, shapes=[ONE, TWO], plan=plan, baseline=kernel(), fresh=True, claim_alone=False).values()
    (reason,) = [x.reason for x in found if x.outcome == "incorrect"]
    assert not reason.endswith("(a timed call)")
    assert all(x.timing is None for x in found)


def test_a_kernel_that_is_known_to_be_right_is_called_once_before_it_is_timed(desk: Desk) -> None:
    wrong_later = kernel("if calls > 1: return torch.zeros_like(q)")
    assert desk.examine(wrong_later, known_right=True)[ONE.id].outcome == "ok"
    assert [line.rpartition(": ")[2] for line in desk.said] == ["normal"]
    assert desk.examine(kernel("return q.clone()"), known_right=True)[ONE.id].outcome == "incorrect"


def test_what_is_done_is_said_case_by_case(desk: Desk) -> None:
    desk.examine(kernel(), shapes=[ONE, TWO])
    assert desk.said[0] == f"checking mine.py on {ONE.id} (1 of 2): normal"
    # What is checked beside them is the same of both, and checked once.
    beside = [line.rpartition(": ")[2] for line in desk.said if TWO.id not in line]
    assert len(desk.said) - len(beside) < len(beside) / 2


def test_for_who_answers_the_first_question_wrongly_no_other_is_thought_of(desk: Desk) -> None:
    assert desk.examine(kernel("return q.clone()"))[ONE.id].outcome == "incorrect"
    assert len(desk.said) == 1


def test_a_wrong_shape_is_told_with_where_it_is_wrong(desk: Desk) -> None:
    found = desk.examine(WRONG_ON_TWO, shapes=[ONE, TWO], claim_alone=True)  # by chance the rest asks it too
    assert found[ONE.id].outcome == "ok"
    assert found[TWO.id].outcome == "incorrect"
    assert found[TWO.id].reason.startswith("max error ")
    assert desk.examine(kernel())[ONE.id].outcome == "ok"


def test_a_refusal_of_a_claimed_shape_is_unsupported(desk: Desk) -> None:
    found = desk.examine(kernel("raise NotImplementedError('no')"))[ONE.id]
    assert found.outcome == "unsupported"
    assert found.reason.startswith("raised NotImplementedError: no (line ")
    assert found.reason.endswith("(normal)")


def test_any_error_on_a_claimed_shape_is_a_crash(desk: Desk) -> None:
    again = f"if calls > 1 and q.shape[2] == {ONE.seqlen_q}: raise ValueError('once')"
    found = desk.examine(kernel(again))[ONE.id]
    assert (found.outcome, "needle, layouts that differ" in found.reason) == ("crashed", True)


def test_an_error_that_is_no_refusal_is_a_crash_on_any_shape(desk: Desk) -> None:
    found = desk.examine(kernel(f"if q.shape[2] != {ONE.seqlen_q}: raise ValueError('not mine')"))[ONE.id]
    assert (found.outcome, "ValueError: not mine" in found.reason) == ("crashed", True)


def test_refusing_some_inputs_of_a_claimed_shape_is_a_wrong_answer(desk: Desk) -> None:
    only = f"if q.shape[2] != {ONE.seqlen_q} or float(q.abs().max()) > 40: raise NotImplementedError('too large')"
    found = desk.examine(kernel(only))[ONE.id]
    assert found.outcome == "incorrect"
    assert found.reason.startswith("refuses some inputs of a shape that it answers: raised NotImplementedError: too")


def test_a_shape_that_was_not_claimed_may_be_refused(desk: Desk) -> None:
    only = f"if list(q.shape) != [1, 4, {ONE.seqlen_q}, 64] or k.shape[2] != {ONE.seqlen_kv}: raise NotImplementedError"
    assert desk.examine(kernel(only))[ONE.id].outcome == "ok"


def test_who_refuses_other_shapes_is_asked_about_every_layout_at_the_claimed_one(desk: Desk) -> None:
    only = f"if list(q.shape) != [1, 4, {ONE.seqlen_q}, 64] or k.shape[2] != {ONE.seqlen_kv}: raise NotImplementedError"
    careless = "if v.stride(1) > v.stride(2) and v.is_contiguous(): v = v + 1"
    found = desk.examine(kernel(f"{only}\n{careless}"))[ONE.id]
    assert found.outcome == "incorrect"


def test_a_shape_that_was_not_claimed_must_not_be_answered_wrongly(desk: Desk) -> None:
    careless = f"if q.shape[2] != {ONE.seqlen_q}: return torch.zeros_like(q)"
    found = desk.examine(kernel(careless))[ONE.id]
    assert found.outcome == "incorrect"
    assert found.reason.endswith("-f32)") or "-f32-s" in found.reason


@pytest.mark.parametrize(
    "ignored",
    [
        "causal = False",
        "causal = True",
        "scale = 0.125",
        "k = k[:, :1].expand_as(k)",
    ],
)
def test_an_ignored_argument_is_found_whatever_is_claimed(desk: Desk, ignored: str) -> None:
    assert desk.examine(kernel(ignored))[ONE.id].outcome == "incorrect"


def test_a_hang_in_the_middle_of_a_check_is_a_timeout(desk: Desk) -> None:
    limits = Limits(build=1, check=1, time=1)
    found = desk.examine(kernel("if calls == 4:\n    while True: pass"), limits=limits)[ONE.id]
    assert found.outcome == "timeout"


def test_a_kernel_that_is_wrong_after_thirty_calls_in_a_row_is_found_before_it_is_timed(desk: Desk) -> None:
    """Timed slices beside a slow incumbent hold a call or two, so it would be promoted beside one."""
    size = f"(q.shape[2], k.shape[2]) == {(ONE.seqlen_q, ONE.seqlen_kv)}"
    late = kernel(f"global row\nrow = row + 1 if {size} else 0\nif row > 30: return torch.zeros_like(q)", top="row = 0")
    found = desk.examine(late, shapes=[LARGER, ONE])
    assert found[LARGER.id].outcome == "ok"  # the row is asked where calls take least
    assert found[ONE.id].outcome == "incorrect"
