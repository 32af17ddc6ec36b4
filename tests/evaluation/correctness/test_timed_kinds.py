"""Kinds of timed inputs: scores and weights are what each kind says, whatever the shape and its scale."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch

from pytest_avo.core.shape import USUAL, Dtype, InputKind, Shape
from pytest_avo.evaluation.correctness.correctness import fault
from pytest_avo.evaluation.correctness.inputs import Stream
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS

PLAIN = Shape(batch=2, heads_q=4, heads_kv=2, seqlen_q=64, seqlen_kv=256, head_dim=64, causal=False, dtype="f32")
SHAPES = (
    PLAIN,
    msgspec.structs.replace(PLAIN, head_dim=128, dtype="bf16"),
    msgspec.structs.replace(PLAIN, scale=0.02, dtype="f16"),
    msgspec.structs.replace(PLAIN, seqlen_q=300, seqlen_kv=128, head_dim=7),
)


def scores(shape: Shape, kind: InputKind) -> torch.Tensor:
    """(calls, batch, heads_q, seqlen_q, seqlen_kv), of draws without needles."""
    [inputs] = Stream(shape, generator(5, "cpu")).draw(1, kind)
    k = inputs.k.double().repeat_interleave(shape.heads_q // shape.heads_kv, 1)
    return (inputs.q.double() @ k.transpose(-1, -2)) * inputs.scale


@pytest.fixture(autouse=True)
def _no_needles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_avo.evaluation.correctness.inputs.NEEDLES_IN", 0.0)


def thirds(found: torch.Tensor) -> tuple[float, float]:
    """Mean scores of the first and of the last third of the keys."""
    third = found.shape[-1] // 3
    return float(found[..., :third].mean()), float(found[..., -third:].mean())


def first_key(found: torch.Tensor) -> float:
    return float(found.softmax(-1)[..., 0].median())


def near(found: torch.Tensor) -> float:
    """Weight of the 32 keys around a query's place, of queries that have some."""
    rows, keys = found.shape[-2:]
    place = torch.arange(rows)[:, None] + keys - rows
    is_near = (place - torch.arange(keys)).abs() <= 16
    weight = (found.softmax(-1) * is_near).sum(-1)
    return float(weight[..., place[:, 0] >= 0].median())


CHECKS: dict[InputKind, Callable[[torch.Tensor], bool]] = {
    "normal": lambda found: thirds(found)[0] == pytest.approx(thirds(found)[1], abs=0.2),
    "spread": lambda found: float(found.std()) == pytest.approx(8, rel=0.1),
    "sink": lambda found: first_key(found) == pytest.approx(0.9, abs=0.03),
    "rising": lambda found: 20 < thirds(found)[1] - thirds(found)[0] < 64,
    "falling": lambda found: -64 < thirds(found)[1] - thirds(found)[0] < -20,
    "local": lambda found: near(found) > 0.6,
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
@pytest.mark.parametrize("kind", TIMED_KINDS)
def test_scores_are_what_the_kind_says(kind: InputKind, shape: Shape) -> None:
    found = scores(shape, kind)
    assert bool(torch.isfinite(found).all())
    assert CHECKS[kind](found)


def test_every_kind_is_described() -> None:
    assert all(kind.help for kind in TIMED_KINDS.values())
    assert set(USUAL) <= TIMED_KINDS.keys()


def test_directions_are_drawn_afresh() -> None:
    stream = Stream(PLAIN, generator(7, "cpu"))
    one, two = (stream.draw(1, "sink")[0].k[0, 0, 0] for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_sink_leaves_the_other_keys_a_part_in_every_result(dtype: Dtype) -> None:
    # Whoever knows the sink, and its weight, would otherwise not have to look at any other key.
    shape = msgspec.structs.replace(PLAIN, seqlen_kv=1024, dtype=dtype)
    [inputs] = Stream(shape, generator(3, "cpu")).draw(1, "sink")
    k, v = (x.double().repeat_interleave(2, 1) for x in (inputs.k, inputs.v))
    weights = ((inputs.q.double() @ k.transpose(-1, -2)) * inputs.scale).softmax(-1)
    assert fault(inputs, (weights @ v).to(inputs.q.dtype)) is None
    assert fault(inputs, (weights[..., :1] * v[:, :, :1]).to(inputs.q.dtype)) is not None


@pytest.mark.parametrize("kind", ["sink", "rising", "falling"])
def test_no_key_has_a_form_by_which_a_kind_can_be_told(kind: InputKind) -> None:
    # The first key once had equal magnitudes in all elements, which no key of a model has.
    [inputs] = Stream(PLAIN, generator(7, "cpu")).draw(1, kind)
    assert all(len(set(inputs.k[0, 0, at].abs().tolist())) > PLAIN.head_dim // 2 for at in (0, -1))
