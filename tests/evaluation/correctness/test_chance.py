"""The second look: honest kernels stay below half of their limits where chance is large; wrong ones are still wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.core.shape import Dtype, InputKind, Shape
from pytest_avo.evaluation.correctness import chance
from pytest_avo.evaluation.correctness.correctness import fault, worst_share
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, Stream, draw
from pytest_avo.evaluation.correctness.kinds import Kind
from pytest_avo.evaluation.correctness.mixture import mix_all
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.reference import computed, parts

MARGIN = 0.5
NEARLY = 0.65
"""Where every error is as large as rounding can make it."""
Way = Callable[[Inputs], torch.Tensor]


def decoding(dtype: Dtype) -> Shape:
    return Shape(batch=1, heads_q=8, heads_kv=1, seqlen_q=1, seqlen_kv=4096, head_dim=64, causal=False, dtype=dtype)


def drawn(dtype: Dtype, kind: InputKind, mixed: Kind, seed: int) -> Inputs:
    """A decoding call whose only head group is of the kind `mixed`, which displaces `kind`."""
    source = generator(seed, "cpu")
    batch = Stream(decoding(dtype), source).draw(1, kind)
    mix_all(batch, [mixed], Random(seed), source)
    return batch[0]


def in_passes(inputs: Inputs) -> torch.Tensor:
    """Unfused, in the inputs' own precision; queries are scaled before the product."""
    scores = (inputs.q * inputs.scale) @ inputs.k.transpose(-1, -2)
    return scores.softmax(-1) @ inputs.v


def by_torch(inputs: Inputs) -> torch.Tensor:
    return scaled_dot_product_attention(*inputs.tensors, scale=inputs.scale, enable_gqa=True)


def scaled_for_exp2(inputs: Inputs) -> torch.Tensor:
    """As FlashAttention does it: queries scaled for 2^x and rounded, weights rounded, sums in single precision."""
    q = (inputs.q.float() * (inputs.scale * 1.4426950408889634)).to(inputs.q.dtype).float()
    scores = q @ inputs.k.float().transpose(-1, -2)
    p = torch.exp2(scores - scores.amax(-1, keepdim=True))
    total = p.sum(-1, keepdim=True)
    return (p.to(inputs.q.dtype).float() @ inputs.v.float() / total).to(inputs.q.dtype)


def below_an_old_maximum(inputs: Inputs) -> torch.Tensor:
    """Weights relative to a maximum that grew since: the largest is rounded too, and what all are divided by is not."""
    scores = inputs.q.float() @ inputs.k.float().transpose(-1, -2) * inputs.scale
    behind = 2.7 * torch.rand(*scores.shape[:-1], 1, generator=torch.Generator().manual_seed(len(inputs.q)))
    p = (scores - scores.amax(-1, keepdim=True) + behind).exp()
    return (p.to(inputs.q.dtype).float() @ inputs.v.float() / p.sum(-1, keepdim=True)).to(inputs.q.dtype)


def sink_and_shifted(seed: int) -> Inputs:
    """Keys with an offset of 8, values of 3, behind a key that takes nearly all the weight: what was once rejected."""
    found = drawn("f32", "normal", "shifted", seed)
    direction = torch.sign(found.q.mean((0, 1, 2))) / 8
    found.q.add_(4 * direction)
    found.k[:, :, 0] = 40 * direction
    return found


@pytest.mark.parametrize("way", [in_passes, by_torch, scaled_for_exp2])
def test_sums_may_lose_what_lies_behind_a_sink(way: Way) -> None:
    assert max(worst_share(inputs, way(inputs)) for inputs in map(sink_and_shifted, range(15))) <= MARGIN


@pytest.mark.parametrize("way", [in_passes, by_torch, scaled_for_exp2])
def test_keys_of_nearly_the_same_large_score_may_change_places(way: Way) -> None:
    draws = [drawn("bf16", "normal", "products", seed) for seed in range(15)]
    assert max(worst_share(inputs, way(inputs)) for inputs in draws) <= MARGIN


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_rounded_weights_need_not_cancel(dtype: Dtype) -> None:
    draws = [Stream(decoding(dtype), generator(seed, "cpu")).draw(1, "sink")[0] for seed in range(12)]
    assert max(worst_share(inputs, below_an_old_maximum(inputs)) for inputs in draws) <= NEARLY
    draws = [drawn(dtype, "normal", "shifted", seed) for seed in range(5)]
    assert max(worst_share(inputs, below_an_old_maximum(inputs)) for inputs in draws) <= NEARLY


def test_a_single_row_says_enough_of_a_weak_accumulator() -> None:
    inputs = Stream(decoding("bf16"), generator(0, "cpu")).draw(1)[0]
    weights = (inputs.q.float() @ inputs.k.float().transpose(-1, -2) * inputs.scale).softmax(-1).bfloat16()
    total = torch.zeros_like(inputs.q)
    for first in range(0, 4096, 16):
        total = (
            total.float() + weights[..., first : first + 16].float() @ inputs.v[:, :, first : first + 16].float()
        ).bfloat16()
    assert fault(inputs, total) is not None
    assert fault(inputs, scaled_for_exp2(inputs)) is None


@pytest.mark.parametrize("kind", ["sink", "rising", "falling", "spread"])
def test_a_mixed_group_is_one_that_half_precision_holds(kind: InputKind) -> None:
    inputs = drawn("f16", kind, "products", seed=3)
    for part in parts(inputs):
        both = (computed(inputs, part, dtype) for dtype in (torch.float64, inputs.q.dtype))
        assert all(bool(torch.isfinite(found).all()) for found in both)


def test_of_scores_in_millions_an_error_has_a_limit_all_the_same() -> None:
    """A weight of zero times what two keys may come closer by was no number, and whatever had it was wrong."""
    claimed = Shape(batch=1, heads_q=2, heads_kv=1, seqlen_q=80, seqlen_kv=60, head_dim=64, causal=True, dtype="bf16")
    for seed in range(6):
        inputs = draw(Case("x", claimed, "rising"), generator(seed, "cpu"))
        for part in parts(inputs):
            found = chance.expected(inputs, part)
            assert all(bool(x.isfinite().all()) for x in (found.peak, found.usual, found.independent, found.lost))


def test_nothing_is_wrong_where_nothing_is_to_be_seen() -> None:
    zeros = torch.zeros(1, 1, 3, 8, dtype=torch.bfloat16)
    inputs = Inputs(zeros, zeros, zeros, causal=True, scale=1.0)
    assert worst_share(inputs, torch.zeros_like(inputs.q)) == 0
    assert worst_share(inputs, torch.full_like(inputs.q, torch.nan)) == float("inf")
