"""From an evaluation to a verdict: direction of ratios, the four speeds, and outcomes that have no speed."""

from __future__ import annotations

import msgspec
import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Outcome, Timing
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict, compare, judge, judge_together
from tests.core.gains import of_kinds

SHAPE = Shape(
    batch=1, heads_q=2, heads_kv=2, seqlen_q=64, seqlen_kv=64, head_dim=64, causal=False, dtype="f32"
)  # fmt: skip
WOBBLE = (1.0, 1.002, 0.998, 1.001, 0.999, 1.0, 1.003, 0.997)
FLOOR = 0.01


def timed(slowness: dict[str, float], noise: tuple[float, ...] = WOBBLE) -> Evaluation:
    """An evaluation whose kernel takes 1 ms a call and whose other arms take that times their slowness."""
    kernel = tuple(1e-3 for _ in noise)
    others = {arm: (tuple(1e-3 * factor * x for x in noise),) for arm, factor in slowness.items()}
    return Evaluation(SHAPE.id, "ok", timing=Timing({KERNEL: (kernel,), **others}, calls=1, stopped=""))


def judged(evaluation: Evaluation) -> Verdict:
    return judge(evaluation, SHAPE, floor=FLOOR)


@pytest.mark.parametrize(
    ("slowness", "expected"), [(1.05, "faster"), (1.0, "same"), (0.95, "slower"), (1.011, "ambiguous")]
)
def test_the_interval_against_the_baseline_and_the_floor_decide(slowness: float, expected: str) -> None:
    verdict = judged(timed({BASELINE: slowness}))
    assert verdict.kind == expected
    assert verdict.is_good
    assert verdict.baseline is not None
    assert verdict.baseline.ratio == pytest.approx(slowness, rel=1e-4)


def test_a_wide_interval_is_ambiguous_however_large_the_estimate() -> None:
    noise = (0.7, 1.6, 0.8, 1.5, 0.75, 1.55, 1.3, 0.9)
    assert judged(timed({BASELINE: 1.03}, noise)).kind == "ambiguous"


def test_too_few_rounds_make_no_verdict_and_no_ratio() -> None:
    found = timed({BASELINE: 1.5, "peer": 1.0})
    assert found.timing is not None
    short = msgspec.structs.replace(found.timing, too_few="1 round in the time budget of 30 s, a verdict takes 5")
    verdict = judged(msgspec.structs.replace(found, timing=short))
    assert (verdict.kind, verdict.reason) == ("ambiguous", short.too_few)
    assert verdict.baseline is None
    assert verdict.peers == {}
    assert verdict.median_us == pytest.approx(1000)


def test_a_ratio_above_one_is_a_kernel_that_is_faster_than_its_peer() -> None:
    verdict = judged(timed({"slow": 2.0, "fast": 0.5}))
    assert verdict.kind == "correct"
    assert verdict.peers["slow"].ratio == pytest.approx(2.0, rel=1e-4)
    assert verdict.peers["slow"].median_us == pytest.approx(2000)
    assert verdict.peers["fast"].ratio == pytest.approx(0.5, rel=1e-4)
    low, high = verdict.peers["slow"].ci95
    assert low <= 2.0 <= high
    assert set(verdict.peers) == {"slow", "fast"}


def test_the_reason_says_how_much_and_in_which_direction() -> None:
    assert judged(timed({BASELINE: 1.05})).reason.startswith("5.0% faster than the incumbent, 95% interval 1.04")
    assert judged(timed({BASELINE: 0.95})).reason.startswith("5.0% slower than the incumbent, 95% interval 0.94")


def test_figures_follow_from_the_median_time() -> None:
    verdict = judged(timed({}))
    assert verdict.median_us == pytest.approx(1000)
    assert verdict.tflops == pytest.approx(SHAPE.flops / 1e-3 / 1e12)
    assert verdict.gbps == pytest.approx(SHAPE.bytes_moved / 1e-3 / 1e9)


def test_a_kernel_that_was_only_checked_is_correct_and_has_no_figures() -> None:
    verdict = judged(Evaluation(SHAPE.id, "ok", notes=("checked only",)))
    assert (verdict.kind, verdict.median_us, verdict.notes) == ("correct", None, ("checked only",))


@pytest.mark.parametrize("outcome", ["incorrect", "crashed", "timeout", "rejected", "unsupported"])
def test_a_failure_keeps_its_reason_and_its_time_counts_for_nothing(outcome: Outcome) -> None:
    timing = timed({BASELINE: 9.0}).timing
    verdict = judged(Evaluation(SHAPE.id, outcome, "because", timing=timing, notes=("peer absent",)))
    assert (verdict.kind, verdict.reason, verdict.notes) == (outcome, "because", ("peer absent",))
    assert not verdict.is_good
    assert verdict.median_us is None
    assert verdict.baseline is None


def test_notes_of_a_timed_kernel_are_kept() -> None:
    evaluation = Evaluation(SHAPE.id, "ok", timing=timed({}).timing, notes=("torch-sdpa: crashed",))
    assert judged(evaluation).notes == ("torch-sdpa: crashed",)


def test_arms_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="paired samples wanted"):
        compare(Timing({KERNEL: ((1.0, 1.0),), "peer": ((2.0,),)}, calls=1, stopped=""), "peer")
    with pytest.raises(ValueError, match="shorter"):
        compare(Timing({KERNEL: ((1.0,),), "peer": ((2.0,), (2.0,))}, calls=1, stopped=""), "peer")


def among(count: int) -> dict[str, Evaluation]:
    """One shape whose kernel is a little faster, as chance has it, beside others that are the same."""
    wobble = (1.015, 1.02, 1.012, 1.025, 1.009, 1.018, 1.03, 1.011, 1.014, 1.022)
    found = {SHAPE.id: timed({BASELINE: 1.0}, wobble)}
    for number in range(1, count):
        shape = msgspec.structs.replace(SHAPE, batch=1 + number)
        found[shape.id] = msgspec.structs.replace(timed({BASELINE: 1.0}), shape=shape.id)
    return found


def shapes_of(evaluations: dict[str, Evaluation]) -> list[Shape]:
    return [msgspec.structs.replace(SHAPE, batch=1 + number) for number in range(len(evaluations))]


def test_what_looks_faster_alone_may_be_chance_among_many() -> None:
    alone, many = among(1), among(40)
    assert judge_together(alone, shapes_of(alone), floor=FLOOR)[SHAPE.id].kind == "faster"
    verdicts = judge_together(many, shapes_of(many), floor=FLOOR)
    assert verdicts[SHAPE.id].kind == "ambiguous"
    assert verdicts[SHAPE.id].reason.endswith("; among 40 shapes that is chance")
    assert {verdict.kind for shape, verdict in verdicts.items() if shape != SHAPE.id} == {"same"}


def test_what_is_plain_stays_so_among_many() -> None:
    many = among(40) | {SHAPE.id: timed({BASELINE: 0.9})}
    assert judge_together(many, shapes_of(many), floor=FLOOR)[SHAPE.id].kind == "slower"


def test_shapes_without_a_time_make_no_claim() -> None:
    wrong = Evaluation(SHAPE.id, "incorrect", reason="why")
    assert judge_together({SHAPE.id: wrong}, [SHAPE], floor=FLOOR) == {SHAPE.id: judged(wrong)}


def test_faster_on_some_kinds_of_inputs_and_slower_on_another_is_not_faster() -> None:
    gains = {"normal": 0.2, "spread": -0.1, "sink": 0.2}
    verdict = judged(of_kinds(SHAPE, gains))
    assert (verdict.kind, verdict.reason.partition("; ")[2][:34]) == ("ambiguous", "slower on spread inputs, 0.905 [0.")
    assert verdict.baseline is not None
    assert verdict.baseline.kinds_differ
    assert {kind: round(found.ratio, 2) for kind, found in verdict.baseline.kinds.items()} == {
        "normal": 1.22, "spread": 0.90, "sink": 1.22,
    }  # fmt: skip
    assert judged(of_kinds(SHAPE, {**gains, "spread": 0.1})).kind == "faster"


def test_kinds_of_inputs_that_noise_alone_tells_apart_do_not_differ() -> None:
    comparison = judged(of_kinds(SHAPE, {"normal": 0.1, "spread": 0.1})).baseline
    assert comparison is not None
    assert not comparison.kinds_differ
    plain = judged(timed({BASELINE: 1.0})).baseline
    assert plain is not None
    assert (plain.kinds, plain.kinds_differ) == ({}, False)
