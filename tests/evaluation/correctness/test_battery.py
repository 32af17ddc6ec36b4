"""The battery: what it varies, that every two choices meet, and that it is drawn anew each time."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
import torch

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.battery import (
    FACTORS,
    GAPS,
    KINDS,
    ORDERED,
    TOGETHER,
    asked_instead,
    battery,
    beside_once,
    judged_in_full,
)
from pytest_avo.evaluation.correctness.inputs import draw
from pytest_avo.evaluation.correctness.layouts import Layout
from pytest_avo.evaluation.correctness.sizes.covering import covering
from tests.evaluation.laboratory import shape

CLAIMED = [
    shape(),
    shape(heads=(1, 1), lengths=(1, 1), causal=False),
    shape(heads=(8, 2), lengths=(1, 300), causal=False, dtype="bf16"),
    shape(heads=(3, 3), lengths=(256, 256), batch=1),
]
GAPPED: set[Layout] = {"padded", "slots", "cache", "odd"}


@pytest.mark.parametrize("case", CLAIMED, ids=lambda x: x.id)
def test_a_battery_varies_all_that_a_kernel_might_ignore(case: Shape) -> None:
    for seed in range(20):
        calls = battery(case, Random(seed))
        required, beside = ([call for call in calls if call.required is wanted] for wanted in (True, False))
        assert calls[0] in required
        assert [call.shape for call in required] == [case, case]
        assert len(set(required[1].layouts if required[1].kind == "needle" else required[0].layouts)) == 3
        assert {call.kind for call in beside} == set(KINDS)
        assert {call.shape.dtype for call in calls} == {case.dtype}
        assert {call.shape.head_dim for call in calls} == {case.head_dim}
        for causal in (True, False):
            some = [call.shape for call in beside if call.shape.causal is causal]
            assert any(each.seqlen_q < each.seqlen_kv for each in some)
            assert any(each.seqlen_q > each.seqlen_kv for each in some)
            assert any(each.seqlen_q == 1 for each in some)
            assert any(each.batch > 1 for each in some)
            assert any(each.heads_q > each.heads_kv > 1 for each in some)
            assert any(each.softmax_scale > 1 for each in some)
            assert any(each.softmax_scale < 0.06 for each in some)
        assert any(call.layouts[1] != call.layouts[2] for call in beside)
        assert any(set(call.layouts) & GAPPED for call in beside)
        for place in range(3):
            assert any(call.layouts[place] in ("one head", "one batch") for call in beside)


@pytest.mark.parametrize("case", CLAIMED, ids=lambda x: x.id)
def test_where_others_are_refused_every_layout_is_asked_at_the_claimed_shape(case: Shape) -> None:
    for seed in range(5):
        calls = asked_instead(case, Random(seed), lse=True)
        assert {call.shape for call in calls} == {case}
        assert all(call.lse for call in calls)
        assert [call.kind for call in calls].count("outliers") == 2
        assert len({call.kind for call in calls}) == len(calls) - 1
        for place in range(3):
            assert {call.layouts[place] for call in calls if call.required} == {*ORDERED, *GAPS}
        assert len([call for call in calls if not call.required]) == 2
        assert not any("odd" in call.layouts for call in asked_instead(case, Random(seed), place="cuda"))


def test_beside_shapes_of_other_heads_only_what_goes_with_heads_is_asked() -> None:
    shapes = [shape(heads=(8, 2)), shape(heads=(6, 3), lengths=(1, 70)), shape(heads=(8, 2), lengths=(9, 9))]
    wanted = beside_once([*shapes, shape(dtype="bf16"), shape(head_dim=32)])
    assert list(wanted.values()) == ["all", "heads", "nothing", "all", "all"]
    for seed in range(5):
        calls = [battery(each, Random(seed), beside=wanted[each.id]) for each in shapes]
        beside = [[call.shape for call in some if not call.required and call.times == 1] for some in calls]
        assert [sum(call.times > 1 for call in some) for some in calls] == [1, 1, 0]
        assert len(beside[0]) > 20
        assert 4 <= len(beside[1]) <= 6
        assert not beside[2]
        assert {(each.heads_q, each.heads_kv) for each in beside[1]} == {(6, 3)}
        assert {each.causal for each in beside[1]} == {True, False}
        assert any(each.seqlen_q > each.seqlen_kv for each in beside[1])
        assert [call.shape for call in calls[1] if call.required] == [shapes[1]] * 2


def test_of_shapes_that_differ_by_batch_and_lengths_the_one_with_the_fewest_scores_is_judged_in_full() -> None:
    short, long, several = shape(lengths=(64, 64)), shape(lengths=(64, 128)), shape(lengths=(32, 64), batch=4)
    assert judged_in_full([long, several, short]) == {short.id}
    assert judged_in_full([long, several]) == {long.id}
    others = [
        shape(lengths=(512, 512), heads=(4, 4)),
        shape(lengths=(512, 512), head_dim=128),
        shape(lengths=(512, 512), causal=False),
        shape(lengths=(512, 512), dtype="bf16"),
    ]
    assert judged_in_full([long, short, *others]) == {short.id, *(each.id for each in others)}


def test_calls_together_have_outliers_in_half_of_their_entries_each_time_others() -> None:
    """A kernel that goes by the first entry, or the first head, meets one that is harmless, in some call surely."""
    for claimed in CLAIMED:
        together = [case for case in battery(claimed, Random(1)) if case.times > 1]
        assert [case.kind for case in together] == ["outliers"]
        (case,) = together
        assert case.times >= 14
        assert case.whole.batch == case.times * case.shape.batch
        calls = draw(case, torch.Generator().manual_seed(1)).split(case.times)
        scores = [
            (x.q.reshape(*x.k.shape[:2], -1, *x.q.shape[2:]) @ x.k.unsqueeze(2).transpose(-1, -2)) * x.scale
            for x in calls
        ]
        largest = torch.stack([x.float().amax((2, 3, 4)) for x in scores])  # (calls, entries, heads_kv)
        first = largest[:, 0].amax(-1) < 50
        assert 1 < int(first.sum()) < case.times
        assert int((largest > 88.8).sum()) >= 6


def test_a_claim_of_equal_heads_is_tried_on_groups_of_which_a_wrong_map_shows() -> None:
    for seed in range(20):
        groups = {(x.shape.heads_q, x.shape.heads_kv) for x in battery(CLAIMED[3], Random(seed))}
        assert any(heads_q > heads_kv > 1 for heads_q, heads_kv in groups)


def test_lengths_beside_the_claim_differ_from_draw_to_draw() -> None:
    found = {call.shape.seqlen_kv for seed in range(3) for call in battery(shape(), Random(seed)) if not call.required}
    assert len(found) > 40
    assert any(length % 16 for length in found)


def test_a_seed_draws_the_same_battery_again_and_another_does_not() -> None:
    one, again, other = (battery(shape(), Random(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_first_call_at_the_claimed_shape_has_needles_now_and_then() -> None:
    firsts = [battery(shape(), Random(seed))[0] for seed in range(20)]
    assert {call.kind for call in firsts} == {"normal", "plain"}
    assert {call.layouts for call in firsts} == {("bshd", "bshd", "bshd")}


@pytest.mark.parametrize("seed", range(5))
def test_every_two_choices_meet_in_few_rows(seed: int) -> None:
    rows = covering(FACTORS, Random(seed), together=TOGETHER)
    assert len(rows) < 35
    met = {pair for row in rows for pair in combinations(row.items(), 2)} | {
        (y, x) for row in rows for x, y in combinations(row.items(), 2)
    }
    for one, other in combinations(FACTORS, 2):
        if one in TOGETHER or other in TOGETHER:
            continue
        assert all(((one, x), (other, y)) in met for x in FACTORS[one] for y in FACTORS[other])
    for limited, others in TOGETHER.items():
        for name in others:
            assert all(((limited, x), (name, y)) in met for x in FACTORS[limited] for y in FACTORS[name])


def test_vectors_are_aligned_on_a_gpu() -> None:
    """There torch's own attention ends in a misaligned address otherwise."""
    layouts = {x for seed in range(3) for call in battery(shape(), Random(seed), place="cuda") for x in call.layouts}
    assert "odd" not in layouts
    assert layouts >= {"padded", "cache", "one head"}
    assert "odd" in {x for call in battery(shape(), Random(0)) for x in call.layouts}


def test_every_check_has_queries_at_every_edge_of_a_tile_and_groups_of_three() -> None:
    """Kernels wrong on these alone got through one check in four, or all."""
    for seed in range(8):
        beside = [case.shape for case in battery(shape(), Random(seed)) if not case.required]
        assert {(x.heads_q // x.heads_kv) for x in beside if x.heads_kv > 1} >= {1, 2, 3}
        for tile in (16, 32, 48, 64, 96, 128):
            assert {0, 1, tile - 1} <= {x.seqlen_q % tile for x in beside if x.seqlen_q > 1}
        for tile in (48, 64, 96, 128, 192, 256):
            assert {0, 1, tile - 1} <= {x.seqlen_kv % tile for x in beside if x.seqlen_kv > tile - 2}
        beyond = {(x.seqlen_kv + 1) % 512 for x in beside if x.seqlen_kv > 4000} | {
            (x.seqlen_q + 1) % 512 for x in beside if x.seqlen_q > 4000
        }
        assert beyond <= {0, 1, 2}
        assert len(beyond) == 2


def test_every_check_has_two_masked_queries_and_keys_that_fill_no_tile() -> None:
    """Few queries are taken for one, which sees every key."""
    for seed in range(8):
        masked = [case.shape for case in battery(shape(), Random(seed)) if case.shape.causal and not case.required]
        assert any(x.seqlen_q == 2 and x.seqlen_kv > 100 for x in masked)
        few = [x for x in masked if 1 < x.seqlen_q <= 8 and x.seqlen_kv <= 8]
        assert any(x.heads_q > 3 * x.heads_kv > 3 and x.batch > 8 for x in few)
        assert any(x.heads_q == x.heads_kv > 8 for x in few)


def test_every_check_has_a_single_key_of_one_query_and_of_several_with_and_without_a_mask() -> None:
    """A kernel wrong for one key alone got through nearly every check."""
    for seed in range(8):
        single = [case.shape for case in battery(shape(), Random(seed)) if case.name == "one key"]
        assert {x.seqlen_kv for x in single} == {1}
        assert {x.seqlen_q > 1 for x in single} == {True, False}
        assert {x.causal for x in single} == {True, False}
        assert {x.heads_q > x.heads_kv for x in single if x.seqlen_q == 1} == {True, False}


def test_every_check_has_calls_of_one_size_that_differ_in_mask_scale_or_group_alone() -> None:
    """What a kernel keeps by the sizes of a call, without these, is of another call then."""
    for seed in range(8):
        cases = [case for case in battery(shape(), Random(seed)) if case.name == "sizes as before"]
        alike = [case.shape for case in cases]
        assert len({case.layouts for case in cases}) == 1
        assert len(set(cases[0].layouts)) == 3
        assert len({(x.batch, x.heads_q, x.seqlen_q, x.seqlen_kv) for x in alike}) == 1
        (first,) = [x for x in alike if x.causal and x.scale is None and x.heads_kv < x.heads_q]
        others = {(x.causal, x.scale is None, x.heads_kv == x.heads_q) for x in alike if x != first}
        assert others == {(False, True, False), (True, False, False), (True, True, True)}


def test_every_check_goes_beyond_the_lengths_of_most_calls() -> None:
    """Kernels wrong beyond 512 keys of several queries, or 512 rows, were never asked."""
    for seed in range(8):
        beside = [case.shape for case in battery(shape(), Random(seed)) if not case.required]
        assert any(x.seqlen_kv > 4096 and x.seqlen_q > 1 and x.causal for x in beside)
        assert any(x.seqlen_q > 4096 and x.seqlen_kv > 1 for x in beside)
        assert any(x.seqlen_q == x.seqlen_kv > 512 and x.causal for x in beside)
