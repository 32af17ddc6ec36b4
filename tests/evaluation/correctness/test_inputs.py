"""Inputs: their layouts, what each kind does to the weights, and that no two calls meet the same values."""

from __future__ import annotations

import pytest
import torch

from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.correctness.battery import KINDS
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, Stream, draw
from pytest_avo.evaluation.correctness.kinds import Kind, plant_needles
from pytest_avo.evaluation.correctness.layouts import Layout, laid_out
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from tests.evaluation.laboratory import shape


def drawn(kind: Kind, *, seed: int = 1, dtype: Dtype = "f32", causal: bool = True) -> Inputs:
    case = Case("x", shape(dtype=dtype, causal=causal), kind)
    return draw(case, torch.Generator().manual_seed(seed))


def weights(inputs: Inputs) -> torch.Tensor:
    """Softmax weights (batch, heads_q, seqlen_q, seqlen_kv) in float64."""
    k = inputs.k.repeat_interleave(inputs.q.shape[1] // inputs.k.shape[1], dim=1).double()
    scores = inputs.q.double() @ k.transpose(-1, -2) * inputs.scale
    if inputs.causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
        scores = scores.masked_fill(~visible, -torch.inf)
    return torch.softmax(scores, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_inputs_have_the_shape_and_type_of_their_case(kind: Kind, dtype: Dtype) -> None:
    inputs = drawn(kind, dtype=dtype)
    assert [tuple(x.shape) for x in inputs.tensors] == [(1, 4, 48, 64), (1, 2, 80, 64), (1, 2, 80, 64)]
    assert {x.dtype for x in inputs.tensors} == {TORCH_DTYPES[dtype]}
    assert all(bool(torch.isfinite(x).all()) for x in inputs.tensors)
    assert (inputs.causal, inputs.scale) == (True, 64**-0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_again_and_another_does_not(kind: Kind) -> None:
    one, again, other = (drawn(kind, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(one.tensors, again.tensors, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(one.tensors, other.tensors, strict=True))


def test_one_generator_never_draws_twice_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    one, two = (draw(Case("x", shape()), generator) for _ in range(2))
    assert not torch.equal(one.q, two.q)


@pytest.mark.parametrize(
    ("layout", "strides", "contiguous"),
    [
        ("bshd", (48 * 4 * 64, 64, 4 * 64, 1), "transposed"),
        ("bhsd", (4 * 48 * 64, 48 * 64, 64, 1), "as it is"),
        ("sbhd", (4 * 64, 64, 4 * 64, 1), "transposed"),
        ("padded", (48 * 4 * 80, 80, 4 * 80, 1), "never"),
        ("odd", (48 * 4 * 69, 69, 4 * 69, 1), "never"),
        ("slots", (112 * 4 * 64, 64, 4 * 64, 1), "transposed"),
        ("cache", (4 * 112 * 64, 112 * 64, 64, 1), "never"),
    ],
)
def test_a_layout_changes_strides_and_no_value(layout: Layout, strides: tuple[int, ...], contiguous: str) -> None:
    values = torch.randn(1, 4, 48, 64)
    x = laid_out(values, layout)
    assert torch.equal(x, values)
    assert x.stride() == strides
    assert x.is_contiguous() == (contiguous == "as it is")
    assert x.transpose(1, 2).is_contiguous() == (contiguous == "transposed")


def test_all_that_is_no_number_of_a_tensor_is_no_number_at_all() -> None:
    values = torch.randn(2, 4, 48, 64)
    gapped: tuple[Layout, ...] = ("padded", "odd", "slots", "cache")
    for layout in gapped:
        x = laid_out(values, layout)
        elements = x.untyped_storage().nbytes() // 4
        whole = x.as_strided((elements,), (1,), 0)
        assert int(torch.isfinite(whole).sum()) == values.numel() < elements
    for x in (values, values.bfloat16()):
        odd = laid_out(x, "odd")
        assert odd.data_ptr() % 16 == 4
        assert {row.data_ptr() % 4 for row in odd[0, :, 0]} == ({0} if x.element_size() == 4 else {0, 2})


def test_what_is_repeated_is_so_in_values_and_strides() -> None:
    repeated: tuple[Layout, ...] = ("one batch", "one head")
    for index, layout in enumerate(repeated):
        case = Case("x", shape(batch=2), "needle", ("bshd", layout, layout))
        inputs = draw(case, torch.Generator().manual_seed(1))
        assert inputs.k.stride(index) == inputs.v.stride(index) == 0
        assert float(weights(inputs).amax(-1).min()) > 0.9


def test_very_negative_scores_underflow_unless_the_maximum_is_theirs() -> None:
    dtypes: tuple[Dtype, ...] = ("f32", "bf16", "f16")
    for dtype in dtypes:
        inputs = drawn("negative", dtype=dtype)
        k = inputs.k.repeat_interleave(2, dim=1)
        scores = inputs.q.double() @ k.double().transpose(-1, -2) * inputs.scale
        assert float(scores.max()) < -90


def test_rising_scores_rise() -> None:
    inputs = drawn("rising", causal=False)
    scores = inputs.q.double() @ inputs.k.repeat_interleave(2, dim=1).double().transpose(-1, -2) * inputs.scale
    assert float((scores[..., -1] - scores[..., 0]).min()) > 60


@pytest.mark.parametrize(("dtype", "least", "most"), [("bf16", 1e5, 1e7), ("f32", 1e5, 1e7), ("f16", 3e4, 6.5e4)])
def test_rising_scores_jump_further_than_what_stands_for_minus_infinity(
    dtype: Dtype, least: float, most: float
) -> None:
    """Beyond -65504, the least number of half precision, where a type holds it: rows that see no other scores."""
    lowest = []
    for seed in range(12):
        case = Case("x", shape(dtype=dtype, lengths=(80, 60)), "rising")
        inputs = draw(case, torch.Generator().manual_seed(seed))
        k = inputs.k.repeat_interleave(inputs.q.shape[1] // inputs.k.shape[1], dim=1).double()
        lowest.append(-float((inputs.q.double() @ k.transpose(-1, -2) * inputs.scale)[:, :, 20:, 0].min()))
    assert least < max(lowest) < most
    assert min(lowest) > 3e4


def test_products_are_beyond_half_precision_and_scaled_within() -> None:
    inputs = drawn("products", dtype="f16")
    products = inputs.q.double() @ inputs.k.repeat_interleave(2, dim=1).double().transpose(-1, -2)
    assert float(products.abs().max()) > 65504 > float((products * inputs.scale).abs().max())


@pytest.mark.parametrize("causal", [False, True])
def test_an_outlier_is_one_score_far_above_all_others_by_a_longer_key_query_or_both(causal: bool) -> None:
    rises, ways = [], set()
    for seed in range(40):
        usual, inputs = drawn("plain", seed=seed, causal=causal), drawn("outliers", seed=seed, causal=causal)
        assert torch.equal(usual.v, inputs.v)
        longer = [(x != y).any(-1).flatten(2).any(-1) for x, y in ((usual.k, inputs.k), (usual.q, inputs.q))]
        keys, queries = longer[0][0], longer[1][0].view(2, 2).any(-1)
        assert int((keys | queries).sum()) == 1  # one of two heads
        head = 2 * int((keys | queries).int().argmax())
        ways.add((bool(keys.any()), bool(queries.any())))
        rises.append(float(weights(inputs)[0, head : head + 2].amax()))
    assert min(rises) > 0.3
    assert ways == {(True, False), (False, True), (True, True)}


def test_most_outliers_are_beyond_what_exp_holds_and_many_hidden_from_most_elements() -> None:
    case = Case("x", shape(heads=(2, 2), lengths=(16, 64), causal=False, batch=32), "outliers")
    inputs = draw(case, torch.Generator().manual_seed(1))
    scores = (inputs.q.double() @ inputs.k.double().transpose(-1, -2)) * inputs.scale
    is_far = scores.amax((-2, -1)) > 88.8
    assert 8 <= int(is_far.sum()) <= 16  # of half the heads of half the entries
    spread = inputs.k.abs().amax((2, 3)) / inputs.k.norm(dim=-1).amax(-1)
    assert float(spread[is_far].max()) > 0.6  # most of what is longer lies in an element or two


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_needle_takes_nearly_all_the_weight(causal: bool, dtype: Dtype) -> None:
    largest = weights(drawn("needle", causal=causal, dtype=dtype)).amax(-1)
    assert float(largest.min()) > 0.9
    assert float(largest.mean()) > 0.99


def test_needles_point_at_many_different_keys() -> None:
    picked = weights(drawn("needle", causal=False)).argmax(-1)
    assert len(set(picked.flatten().tolist())) > 40


def test_a_sixteenth_of_normal_rows_are_needles() -> None:
    largest = weights(drawn("normal", causal=False)).amax(-1)
    assert {int((head > 0.9).sum()) for head in largest[0]} <= {3, 4}


def test_a_single_query_is_a_needle_now_and_then() -> None:
    case = Case("x", shape(lengths=(1, 200), heads=(8, 8), causal=False))
    found = sum(
        int((weights(draw(case, torch.Generator().manual_seed(seed))).amax(-1) > 0.9).sum()) for seed in range(40)
    )
    assert 0 < found < 8 * 40 / 3


def test_tiny_and_huge_values_differ_by_powers_of_two() -> None:
    tiny, normal, huge = (float(drawn(name).v.std()) for name in ("tiny", "shifted", "huge"))
    assert normal == pytest.approx(1, abs=0.1)
    assert tiny == pytest.approx(2.0**-12, rel=0.1)
    assert huge == pytest.approx(2.0**12, rel=0.1)
    assert float(drawn("huge", dtype="f16").v.abs().max()) < 65504


@pytest.mark.parametrize("scale", [0.02, 0.37, 1.0])
def test_needles_are_needles_at_any_scale(scale: float) -> None:
    q, k = torch.randn(1, 2, 16, 64), torch.randn(1, 2, 64, 64)
    plant_needles(q, k, causal=False, scale=scale, share=1.0, generator=torch.Generator().manual_seed(1))
    assert float(weights(Inputs(q, k, k, False, scale)).amax(-1).min()) > 0.9


def test_needles_under_a_mask_point_at_visible_keys() -> None:
    q, k = torch.randn(1, 1, 64, 64), torch.randn(1, 1, 32, 64)
    plant_needles(q, k, causal=True, scale=0.125, share=1.0, generator=torch.Generator().manual_seed(1))
    found = weights(Inputs(q, k, k, True, 0.125))[0, 0, 32:]
    assert float(found.amax(-1).min()) > 0.9


def test_large_logits_overflow_without_a_maximum() -> None:
    inputs = drawn("large")
    scores = inputs.q.repeat_interleave(1, dim=1)[:, :2].double() @ inputs.k.double().transpose(-1, -2) * inputs.scale
    assert float(scores.abs().max()) > 89  # exp() of it is infinite in float32


def test_constant_keys_give_every_visible_key_the_same_weight() -> None:
    found = weights(drawn("constant", causal=False))
    assert float((found - 1 / 80).abs().max()) < 1e-6


def test_shifted_values_are_far_from_zero() -> None:
    inputs = drawn("shifted")
    assert float(inputs.v.mean()) == pytest.approx(3, abs=0.1)
    assert float(inputs.k.abs().mean()) > 6


def test_value_scales_differ_between_heads() -> None:
    spread = [drawn("scaled", seed=seed).v.abs().amax((0, 2, 3)) for seed in range(9)]
    ratios = [float((x.max() / x.min()).log10()) for x in spread]
    assert max(ratios) > 2 > min(ratios)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_stream_gives_every_call_fresh_values(dtype: Dtype) -> None:
    stream = Stream(shape(dtype=dtype, batch=2), torch.Generator().manual_seed(3))
    calls = [*stream.draw(4), *stream.draw(2)]
    for index, call in enumerate(calls):
        assert [tuple(x.shape) for x in call.tensors] == [(2, 4, 48, 64), (2, 2, 80, 64), (2, 2, 80, 64)]
        assert {x.dtype for x in call.tensors} == {TORCH_DTYPES[dtype]}
        assert all(x.transpose(1, 2).is_contiguous() for x in call.tensors)
        for other in calls[:index]:
            assert not any(torch.equal(x, y) for x, y in zip(call.tensors, other.tensors, strict=True))
            # A result kept from another call is wrong on every row, not only on the whole.
            same_rows = (call.v == other.v).all(-1)
            assert float(same_rows.double().mean()) < 0.05


def test_a_stream_draws_ordinary_values_with_a_few_needles() -> None:
    stream = Stream(shape(lengths=(256, 256)), torch.Generator().manual_seed(3))
    call = stream.draw(1)[0]
    assert float(call.v.mean().abs()) < 0.1
    assert float(call.v.std()) == pytest.approx(1, abs=0.1)
    needles = int((weights(call)[0, 0, 128:].amax(-1) > 0.9).sum())
    assert 0 <= needles <= 4
    found = [bool((weights(x)[0, :, 128:] > 0.9).any()) for x in (stream.draw(1)[0] for _ in range(20))]
    assert {True, False} == set(found)  # half of the draws have none


def test_a_stream_reproduces_from_its_seed() -> None:
    one, two = (Stream(shape(), torch.Generator().manual_seed(5)) for _ in range(2))
    for _ in range(3):
        assert all(torch.equal(x, y) for x, y in zip(one.draw(1)[0].tensors, two.draw(1)[0].tensors, strict=True))
