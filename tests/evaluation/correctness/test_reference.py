"""The reference, against torch's own attention in float64 and against itself in pieces."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness import reference
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, draw
from tests.evaluation.laboratory import shape

SHAPES = [
    shape(causal=False),
    shape(causal=True),
    shape(lengths=(80, 80), causal=True),
    shape(lengths=(1, 77), causal=True),
    shape(heads=(6, 1), lengths=(33, 65), causal=True, batch=2),
    shape(heads=(3, 3), lengths=(90, 41), causal=True),
    shape(heads=(4, 4), lengths=(90, 41), causal=False, dtype="bf16"),
]


def inputs_of(case: Shape, seed: int = 1) -> Inputs:
    return draw(Case("x", case), torch.Generator().manual_seed(seed))


def by_torch(inputs: Inputs) -> torch.Tensor:
    q, k, v = (x.double() for x in inputs.tensors)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2]) if inputs.causal else None
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=inputs.scale, enable_gqa=True)
    hidden = torch.zeros(q.shape[2], dtype=torch.bool) if mask is None else ~mask.any(-1)
    return out.masked_fill(hidden[:, None], 0.0)


def whole(inputs: Inputs, *, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Both precisions for all heads."""
    part = reference.Part(slice(0, inputs.q.shape[0]), slice(0, inputs.k.shape[1]), rows)
    exact, plain = (reference.computed(inputs, part, dtype) for dtype in (torch.float64, inputs.q.dtype))
    return exact.flatten(1, 2), plain.flatten(1, 2)


@pytest.mark.parametrize("case", SHAPES, ids=lambda x: x.id)
def test_the_reference_agrees_with_torch_in_float64(case: Shape) -> None:
    inputs = inputs_of(case)
    exact, plain = whole(inputs, rows=slice(None))
    assert exact.dtype == torch.float64
    assert plain.dtype == inputs.q.dtype
    assert float((exact - by_torch(inputs)).abs().max()) < 1e-12
    assert float((plain.double() - exact).abs().max()) < (1e-4 if case.dtype == "f32" else 0.1)


def test_the_mask_is_aligned_bottom_right() -> None:
    inputs = inputs_of(shape(lengths=(3, 5), causal=True))
    exact, _ = whole(inputs, rows=slice(None))
    # Row 0 of 3 sees keys 0 to 2 of 5, the last row sees all.
    first = Inputs(inputs.q[:, :, :1], inputs.k[:, :, :3], inputs.v[:, :, :3], False, inputs.scale)
    last = Inputs(inputs.q[:, :, 2:], inputs.k, inputs.v, False, inputs.scale)
    assert torch.allclose(exact[:, :, :1], by_torch(first))
    assert torch.allclose(exact[:, :, 2:], by_torch(last))


def test_a_row_that_sees_no_key_is_zero() -> None:
    exact, plain = whole(inputs_of(shape(lengths=(70, 30), causal=True)), rows=slice(None))
    for result in (exact, plain):
        assert bool((result[:, :, :40] == 0).all())
        assert bool((result[:, :, 40:] != 0).any(-1).all())


def test_query_heads_read_the_key_head_of_their_group() -> None:
    inputs = inputs_of(shape(heads=(6, 2), causal=False))
    inputs.v[:, 1] = 0
    exact, _ = whole(inputs, rows=slice(None))
    assert bool((exact[:, :3] != 0).any())
    assert bool((exact[:, 3:] == 0).all())


@pytest.mark.parametrize("at_once", [1, 500, 4000])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, at_once: int, causal: bool) -> None:
    inputs = inputs_of(shape(lengths=(70, 30), causal=causal))
    expected = whole(inputs, rows=slice(None))
    monkeypatch.setattr(reference, "SCORES_AT_ONCE", {"cpu": at_once})
    for chunked, together in zip(whole(inputs, rows=slice(None)), expected, strict=True):
        assert torch.allclose(chunked, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(17, 40), slice(40, 70), slice(69, 70)])
def test_some_rows_are_those_of_the_whole(rows: slice) -> None:
    inputs = inputs_of(shape(lengths=(70, 30), causal=True))
    exact, _ = whole(inputs, rows=slice(None))
    part, _ = whole(inputs, rows=rows)
    assert torch.allclose(part, exact[:, :, rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_as_torchs_own_products_do(dtype: torch.dtype) -> None:
    """The error that is allowed rests on it: sums in half precision would allow far more."""
    source = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 160, 64, generator=source).to(dtype) for _ in range(3))
    exact = reference.attention(
        q.double()[None, None],
        k.double()[:1, None],
        v.double()[:1, None],
        causal=True,
        scale=0.2,
        first_row=0,
        seqlen_q=160,
    )
    heads = q[None, None], k[:1, None], v[:1, None]
    ours = reference.attention(*heads, causal=True, scale=0.2, first_row=0, seqlen_q=160)
    visible = torch.ones(160, 160, dtype=torch.bool).tril()
    scores = ((q * 0.2) @ k[0].T).masked_fill(~visible, float("-inf"))
    torchs = torch.softmax(scores, -1) @ v[0]
    errors = [(x.double() - exact).square().mean().sqrt() for x in (ours, torchs)]
    assert ours.dtype == dtype
    assert abs(float(errors[0] / errors[1]) - 1) < 0.01


@pytest.mark.parametrize("scale", [None, 40.0], ids=["usual scores", "scores of thousands"])
@pytest.mark.parametrize("case", SHAPES, ids=lambda x: x.id)
def test_few_passes_say_what_the_definition_says_and_the_log_sum_exp(case: Shape, scale: float | None) -> None:
    inputs = inputs_of(msgspec.structs.replace(case, scale=scale))
    for part in reference.parts(inputs):
        found = reference.exact(inputs, part)
        assert float((found.out - reference.computed(inputs, part, torch.float64)).abs().max()) < 1e-12
        q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1]).double()
        scores = reference.weigh(q * inputs.scale, part.keys(inputs.k).double().transpose(-1, -2))
        if inputs.causal:
            visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
            scores.masked_fill_(~visible, -torch.inf)
        assert torch.allclose(found.lse, scores.logsumexp(-1), rtol=1e-13, atol=1e-12)
