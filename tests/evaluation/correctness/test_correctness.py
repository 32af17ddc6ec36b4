"""The error rule: honest ways to compute attention pass on every draw, dishonest ones fail on every draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness import correctness, reference
from pytest_avo.evaluation.correctness.battery import battery
from pytest_avo.evaluation.correctness.correctness import all_finite, fault, sampled_fault
from pytest_avo.evaluation.correctness.errors import (
    doubtful_places,
    errors_of,
    largest_values,
    margins,
    margins_of,
    surely_right,
)
from pytest_avo.evaluation.correctness.extensions.log_sum_exp import limits
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.reference import Part, computed
from tests.evaluation.laboratory import shape

Variant = Callable[[Inputs], torch.Tensor]
NARROW = shape(heads=(4, 2), lengths=(130, 140), dtype="bf16")
WIDE = shape(heads=(2, 2), lengths=(97, 97), dtype="f32")
LONG = shape(heads=(2, 1), lengths=(128, 1024), dtype="bf16", causal=False)


def visible(inputs: Inputs) -> torch.Tensor:
    rows, keys = inputs.q.shape[2], inputs.k.shape[2]
    everything = torch.ones(rows, keys, dtype=torch.bool)
    return everything.tril(keys - rows) if inputs.causal else everything


def grouped(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    group = inputs.q.shape[1] // inputs.k.shape[1]
    return inputs.k.repeat_interleave(group, dim=1), inputs.v.repeat_interleave(group, dim=1)


def by_hand(
    inputs: Inputs,
    *,
    probabilities: torch.dtype | None = None,
    operands: torch.dtype | None = None,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Softmax in float32; the operands of its two products may be rounded to other dtypes first."""
    k, v = grouped(inputs)
    q, k, v = (x.to(operands).float() if operands else x.float() for x in (inputs.q, k, v))
    scores = q @ k.transpose(-1, -2) * (inputs.scale if scale is None else scale)
    seen = visible(inputs) if mask is None else mask
    scores = scores.masked_fill(~seen, -torch.inf)
    top = scores.amax(-1, keepdim=True).clamp_min(-1e30)
    p = (scores - top).exp()
    total = p.sum(-1, keepdim=True).clamp_min(1e-30)
    if probabilities:
        p = p.to(probabilities).float()
    return (p @ v / total).to(inputs.q.dtype)


def by_torch(inputs: Inputs) -> torch.Tensor:
    seen = visible(inputs)
    out = scaled_dot_product_attention(*inputs.tensors, attn_mask=seen, scale=inputs.scale, enable_gqa=True)
    return out.masked_fill(~seen.any(-1)[:, None], 0.0)


def in_splits(inputs: Inputs) -> torch.Tensor:
    """Split-KV: two halves of the keys on their own, combined by maxima and sums."""
    k, v = grouped(inputs)
    scores = inputs.q.float() @ k.float().transpose(-1, -2) * inputs.scale
    scores = scores.masked_fill(~visible(inputs), -torch.inf)
    half = max(1, k.shape[2] // 2)
    top = scores.amax(-1, keepdim=True).clamp_min(-1e30)
    total, norm = torch.zeros(1), torch.zeros(1)
    for keys in (slice(0, half), slice(half, None)):
        part = scores[..., keys]
        highest = part.amax(-1, keepdim=True).clamp_min(-1e30) if part.shape[-1] else top
        p, rescale = (part - highest).exp(), (highest - top).exp()
        total = total + rescale * (p @ v[:, :, keys].float())
        norm = norm + rescale * p.sum(-1, keepdim=True)
    return (total / norm.clamp_min(1e-30)).to(inputs.q.dtype)


HONEST: dict[str, Variant] = {
    "float32": by_hand,
    "probabilities in the input's dtype": lambda x: by_hand(x, probabilities=x.q.dtype),
    "torch": by_torch,
    "split-KV": in_splits,
}


@pytest.mark.parametrize(
    ("name", "case"),
    [*((name, NARROW) for name in HONEST), *((name, WIDE) for name in ("float32", "torch", "split-KV"))],
)
def test_honest_ways_pass_every_battery(name: str, case: Shape) -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for call in battery(case, Random(seed)):
            inputs = draw(call, generator)
            assert fault(inputs, HONEST[name](inputs)) is None, (seed, call)


def test_half_precision_floats_pass_too() -> None:
    case = shape(heads=(2, 2), lengths=(97, 97), dtype="f16")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for call in battery(case, Random(seed)):
            inputs = draw(call, generator)
            assert fault(inputs, by_hand(inputs, probabilities=torch.float16)) is None, (seed, call)


def without_keys(inputs: Inputs, *, drop: slice) -> torch.Tensor:
    mask = visible(inputs).clone()
    if mask.shape[1] > 20:
        mask[:, drop] = False
    return by_hand(inputs, mask=mask)


def mean_of_values(inputs: Inputs) -> torch.Tensor:
    seen = visible(inputs).float()
    weights = seen / seen.sum(-1, keepdim=True).clamp_min(1)
    return (weights @ grouped(inputs)[1].float()).to(inputs.q.dtype)


def weak_accumulator(inputs: Inputs) -> torch.Tensor:
    """Sums of 16 values at a time are rounded to bfloat16."""
    k, v = grouped(inputs)
    scores = (inputs.q.float() @ k.float().transpose(-1, -2) * inputs.scale).masked_fill(~visible(inputs), -torch.inf)
    weights = torch.nan_to_num(torch.softmax(scores, -1))
    total = torch.zeros(inputs.q.shape, dtype=torch.bfloat16)
    for start in range(0, k.shape[2], 16):
        total = (total.float() + weights[..., start : start + 16] @ v[:, :, start : start + 16].float()).bfloat16()
    return total.to(inputs.q.dtype)


def without_maximum(inputs: Inputs) -> torch.Tensor:
    k, v = grouped(inputs)
    scores = (inputs.q.float() @ k.float().transpose(-1, -2) * inputs.scale).masked_fill(~visible(inputs), -torch.inf)
    p = scores.exp()
    return (p @ v.float() / p.sum(-1, keepdim=True).clamp_min(1e-30)).to(inputs.q.dtype)


def wrong_groups(inputs: Inputs) -> torch.Tensor:
    heads_q, heads_kv = inputs.q.shape[1], inputs.k.shape[1]
    picked = [h % heads_kv for h in range(heads_q)]
    return by_hand(Inputs(inputs.q, inputs.k[:, picked], inputs.v[:, picked], inputs.causal, inputs.scale))


def top_left(inputs: Inputs) -> torch.Tensor:
    mask = torch.ones(inputs.q.shape[2], inputs.k.shape[2], dtype=torch.bool)
    return by_hand(inputs, mask=mask.tril() if inputs.causal else mask)


def ones_for_hidden_rows(inputs: Inputs) -> torch.Tensor:
    out = by_hand(inputs)
    return out.masked_fill(~visible(inputs).any(-1)[:, None], 1.0)


def one_bad_element(inputs: Inputs) -> torch.Tensor:
    out = by_hand(inputs).clone()
    out[-1, -1, -1, -1] += 0.1 * inputs.v.float().abs().max()
    return out


def one_bad_head(inputs: Inputs) -> torch.Tensor:
    """The head with the smallest values is wrong, which disappears beside the others."""
    out = by_hand(inputs).clone()
    out[:, 0] *= 1.1
    return out


def not_a_number(inputs: Inputs) -> torch.Tensor:
    out = by_hand(inputs).clone()
    out[0, 0, -1, 0] = float("nan")
    return out


WRONG: dict[str, tuple[Variant, Shape]] = {
    "zeros": (lambda x: torch.zeros_like(x.q), NARROW),
    "mean of the values": (mean_of_values, NARROW),
    "first keys dropped": (lambda x: without_keys(x, drop=slice(0, 16)), NARROW),
    "every hundredth key dropped": (lambda x: without_keys(x, drop=slice(5, None, 100)), LONG),
    "last keys dropped": (lambda x: without_keys(x, drop=slice(-16, None)), NARROW),
    "products in fp8": (lambda x: by_hand(x, operands=torch.float8_e4m3fn), NARROW),
    "probabilities in fp8": (lambda x: by_hand(x, probabilities=torch.float8_e4m3fn), NARROW),
    "bfloat16 for float32": (lambda x: by_hand(x, operands=torch.bfloat16), WIDE),
    "half precision for float32": (lambda x: by_hand(x, probabilities=torch.float16), WIDE),
    "no maximum": (without_maximum, NARROW),
    "wrong group map": (wrong_groups, NARROW),
    "top-left mask": (top_left, WIDE),
    "no mask": (lambda x: by_hand(x, mask=torch.ones(x.q.shape[2], x.k.shape[2], dtype=torch.bool)), LONG),
    "always a mask": (lambda x: by_hand(Inputs(*x.tensors, True, x.scale)), LONG),
    "default scale": (lambda x: by_hand(x, scale=x.q.shape[-1] ** -0.5), WIDE),
    "hidden rows not zero": (ones_for_hidden_rows, shape(lengths=(130, 67), dtype="bf16")),
    "one bad element": (one_bad_element, NARROW),
    "one bad head": (one_bad_head, NARROW),
    "NaN": (not_a_number, NARROW),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ways_fail_every_battery(name: str) -> None:
    variant, case = WRONG[name]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        calls = (draw(call, generator) for call in battery(case, Random(seed)))
        assert any(fault(inputs, variant(inputs)) for inputs in calls), seed


def test_shifted_values_betray_weak_accumulators() -> None:
    for seed in range(3):
        inputs = draw(Case("x", LONG, "shifted"), torch.Generator().manual_seed(seed))
        assert fault(inputs, by_hand(inputs)) is None
        assert (fault(inputs, weak_accumulator(inputs)) or "").startswith("rms error")


def test_a_fault_says_what_and_where() -> None:
    inputs = draw(battery(NARROW, Random(1))[0], torch.Generator().manual_seed(1))
    out = by_hand(inputs)
    out[0, 3, 129, 5] += 1
    assert (fault(inputs, out) or "").endswith("(heads from 2, rows from 128)")
    assert (fault(inputs, out) or "").startswith("max error ")
    out[0, 3, 129, 5] = float("inf")
    assert fault(inputs, out) == "output has NaN or infinite elements"


def test_a_sampled_check_finds_nan_anywhere_and_a_wrong_output_always() -> None:
    inputs = draw(battery(shape(lengths=(500, 500), batch=2), Random(1))[0], torch.Generator().manual_seed(1))
    out = by_hand(inputs)
    for seed in range(20):
        assert sampled_fault(inputs, out, Random(seed)) is None
        assert sampled_fault(inputs, out + 0.01, Random(seed)) is not None
        spoilt = out.clone()
        spoilt[1, 3, 499, 63] = float("nan")
        assert sampled_fault(inputs, spoilt, Random(seed)) == "output has NaN or infinite elements"


def test_sampled_checks_reach_every_row_in_time() -> None:
    inputs = draw(battery(shape(lengths=(200, 200)), Random(1))[0], torch.Generator().manual_seed(1))
    out = by_hand(inputs)
    out[0, 0, 199] += 1
    out[0, 3, 0] += 1
    random = Random(1)
    found = {sampled_fault(inputs, out, random) for _ in range(300)}
    assert any(x and "heads from 0" in x for x in found)
    assert any(x and "heads from 2" in x for x in found)


def test_what_single_precision_finds_right_float64_does_not_refuse() -> None:
    """Errors up to the limit of the look by single precision, everywhere in a block or in one element of it."""
    case = Case("claim", shape(heads=(2, 1), lengths=(96, 200)))
    inputs, eps = draw(case, generator(3, "cpu")), torch.finfo(torch.float32).eps
    whole = Part(slice(0, 1), slice(0, 1), slice(0, 96))
    plain = computed(inputs, whole, torch.float32).flatten(1, 2)
    largest = float(inputs.v.abs().max())
    signs = torch.randint(0, 2, plain.shape, generator=generator(4, "cpu")) * 2.0 - 1
    single = torch.zeros_like(plain)
    single[0, 1, 50, 3] = 15 * eps * largest
    for error in (signs * 7.5 * eps * largest, single):
        found = margins(inputs, plain + error, whole)
        assert correctness._is_beside_yardstick(inputs, plain + error, whole)
        assert not bool(found.exceeded.any())
    assert not correctness._is_beside_yardstick(inputs, plain + 2 * single, whole)
    assert not correctness._is_beside_yardstick(inputs, plain + signs * 9 * eps * largest, whole)


def test_what_a_nearly_exact_reference_finds_right_float64_does_not_refuse() -> None:
    """Outputs whose errors pass the limit somewhere on the way, over all kinds of inputs."""
    found = set()
    for number, call in enumerate(battery(NARROW, Random(5))[::5]):
        inputs = draw(call, generator(number, "cpu"))
        out = by_hand(inputs, probabilities=inputs.q.dtype)
        signs = torch.randint(0, 2, out.shape, generator=generator(4, "cpu")) * 2.0 - 1
        for size in (0.0, 2.0, 8.0):
            worse = (out.float() + signs * size * 2.0**-9 * out.float().abs()).to(out.dtype)
            for part in reference.parts(inputs):
                is_right = correctness.plainly_right(inputs, worse, part, with_lse=bool(number % 2)) is not None
                right = reference.exact(inputs, part).out
                refused = correctness._output_fault(inputs, worse, part, right) is not None
                assert not (is_right and refused), (call.name, size)
                found.add((is_right, refused))
                errors = errors_of(inputs, worse, part, right)
                limits_there = margins_of(inputs, part, errors)
                assert not (surely_right(errors) and bool(limits_there.exceeded.any())), (call.name, size)
    assert {(True, False), (False, True)} <= found


def test_what_is_not_looked_at_again_a_second_look_would_have_forgiven() -> None:
    """Few rows that point at a key make all of a block's error, and more than the block may err by to round them."""
    case = shape(heads=(2, 1), lengths=(130, 3000), dtype="bf16")
    inputs, whole = draw(Case("", case, "normal"), generator(2, "cpu")), Part(slice(0, 1), slice(0, 1), slice(0, 130))
    exact = reference.exact(inputs, whole).out
    for factor, looked_at_again in ((1 + 2.0**-7, 0), (1.1, 4)):
        out = (exact.flatten(1, 2) * factor).to(torch.bfloat16)
        errors = errors_of(inputs, out, whole, exact)
        found = margins_of(inputs, whole, errors)
        places, again = found.exceeded.nonzero().tolist(), doubtful_places(errors, found)
        assert places
        assert len(again) == looked_at_again
        for place in [place for place in places if place not in again]:
            near, first = correctness._near(whole, place), found.limits(place)
            assert correctness._second_look(inputs, out, near, head=place[2], first=first).share <= 1


def test_the_yardstick_is_computed_for_no_honest_kernel_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is float64, but for scores of which float32 cannot tell enough."""
    inputs = {kind: draw(Case("", NARROW, kind), generator(3, "cpu")) for kind in ("plain", "large", "products")}
    whole = Part(slice(0, NARROW.batch), slice(0, NARROW.heads_kv), slice(0, NARROW.seqlen_q))
    monkeypatch.setattr(correctness, "computed", lambda *_: pytest.fail("computed the yardstick"))
    for kind, each in inputs.items():
        out = by_hand(each, probabilities=torch.bfloat16)
        exact, near = reference.exact(each, whole).out, reference.nearly_exact(each, whole)
        assert surely_right(errors_of(each, out, whole, exact)), kind
        assert (near is None) == (kind == "products")
        if near is not None:
            largest = largest_values(each, whole)
            assert float(((near.out - exact).abs() / largest).max()) < 0.02 * torch.finfo(torch.bfloat16).eps, kind
            assert correctness.plainly_right(each, out, whole) is not None, kind


def test_a_log_sum_exp_that_float32_leaves_a_doubt_about_is_left_to_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block: one row of a long call is no reason to compute all of it again."""
    inputs, exact = draw(Case("", NARROW, "needle"), generator(1, "cpu")), reference.exact
    asked: list[Part] = []

    def counted(inputs: Inputs, part: Part) -> reference.Exact:
        asked.append(part)
        return exact(inputs, part)

    monkeypatch.setattr(correctness, "exact", counted)
    for part in reference.parts(inputs):
        near, right = reference.nearly_exact(inputs, part), exact(inputs, part).lse.float().flatten(1, 2)
        assert near is not None
        assert correctness.lse_fault_beside(inputs, right, part, near.lse) is None
        assert asked == []
        limit = limits(inputs, part).float().flatten(1, 2)
        for share, words in ((0.8, ""), (-1.2, "head 1, row 129")):
            off = right.clone()
            off[0, 1, 129] += share * limit[0, 1, 129]
            found = correctness.lse_fault_beside(inputs, off, part, near.lse)
            assert bool(found) == bool(words)
            assert words in str(found)
            assert [(x.batches.start, x.heads_kv.start, x.rows.start) for x in asked] == [(0, 0, 128)]
            asked.clear()
        assert "lse is" in str(correctness.lse_fault_beside(inputs, right + 2 * limit, part, near.lse))
        asked.clear()


def test_finite_is_what_has_no_infinity_even_where_sums_have() -> None:
    large = torch.full((4, 1000), 3e38)
    assert all_finite(large)
    assert all_finite(large.half().clamp_max(6e4))
    for bad in (math.inf, -math.inf, math.nan):
        spoilt = large.clone()
        spoilt[2, 7] = bad
        assert not all_finite(spoilt)
    spoilt[1, 3], spoilt[2, 7] = math.inf, -math.inf
    assert not all_finite(spoilt)
