"""What a kernel may offer beside the plain call: what is asked of it, and that wrong answers are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_avo.core.kernel import Claim
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_asked_instead, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
from pytest_avo.evaluation.correctness.extensions.sequences import Packed, Paged
from pytest_avo.evaluation.correctness.inputs import Arguments, Case
from tests.evaluation.correctness.extensions import everything
from tests.evaluation.laboratory import shape

CLAIM = Claim("cpu", ("smoke",), lse=True, varlen=True, paged=True)
CLAIMED = [
    shape(dtype="f32", batch=3),
    shape(heads=(4, 1), lengths=(1, 90), head_dim=32, causal=False, dtype="bf16"),
    shape(heads=(2, 2), lengths=(70, 70), head_dim=16, dtype="f16"),
]


def answer(kernel: Any, asked: Arguments, *, lse: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a kernel returns, called as its process calls it."""
    options = {"causal": asked.causal, "scale": asked.scale, **asked.tables, **asked.numbers}
    returned = getattr(kernel, asked.function)(*asked.tensors, **options, **({"return_lse": True} if lse else {}))
    return returned if lse else (returned, None)


def found(kernel: Any, claimed: Shape, *, seed: int, function: str = "") -> list[str]:
    """All that is wrong with what a kernel answers."""
    generator = torch.Generator().manual_seed(seed)
    faults = []
    for case in all_cases(claimed, CLAIM, Random(seed), longest=60):
        if function in ("", "attention" if isinstance(case, Case) else case.function):
            asked = draw_any(case, generator)
            if what := answer_fault(asked, *answer(kernel, asked, lse=case.lse)):
                faults.append(f"{what} {case.name}")
    return faults


@pytest.mark.parametrize("claimed", CLAIMED, ids=lambda x: x.id)
def test_an_honest_kernel_answers_all_of_it(claimed: Shape) -> None:
    assert found(everything, claimed, seed=1) == []


def test_a_kernel_that_claims_nothing_more_is_asked_for_nothing_more() -> None:
    for claim in (None, Claim("cpu", ("smoke",))):
        cases = all_cases(CLAIMED[0], claim, Random(1))
        assert all(isinstance(case, Case) and not case.lse for case in cases)


@pytest.mark.parametrize("claimed", CLAIMED, ids=lambda x: x.id)
def test_all_is_asked_at_the_claimed_shape_and_beside_it(claimed: Shape) -> None:
    cases = all_cases(claimed, replaced(paged=16), Random(2))
    assert isinstance(cases[0], Case)
    assert (cases[0].shape, cases[0].lse, cases[0].required) == (claimed, True, True)
    assert [case.lse for case in cases if isinstance(case, Case) and case.required].count(True) == 1
    several = [case for case in cases if isinstance(case, SequencesCase)]
    for function in ("attention_varlen", "attention_paged"):
        one, *rest = [case for case in several if case.function == function]
        assert one.required
        assert one.lse
        assert not any(case.required for case in rest)
        assert {case.lse for case in rest} == {True, False}
        assert any(0 in lengths for case in rest for lengths in case.lengths)
        assert any(queries > keys > 0 for case in rest for queries, keys in case.lengths)
        assert {case.shape.causal for case in rest} == {True, False}
        assert {case.is_padded for case in rest} == {True, False}
        assert sum(keys for _, keys in one.lengths) <= claimed.batch * claimed.seqlen_kv
        assert max(queries for queries, _ in one.lengths) <= claimed.seqlen_q
    sizes = {case.block_size for case in several if case.function == "attention_paged"}
    assert all(size % 16 == 0 for size in sizes)
    assert max(sizes) >= 128


@pytest.mark.parametrize("claimed", CLAIMED, ids=lambda x: x.id)
def test_where_others_are_refused_unequal_and_empty_sequences_are_asked_at_the_claimed_lengths(claimed: Shape) -> None:
    functions = ("attention", "attention_varlen", "attention_paged")
    cases = all_asked_instead(claimed, CLAIM, Random(1), functions)
    assert all(case.lse for case in cases)
    several = [case for case in cases if isinstance(case, SequencesCase)]
    assert [case.function for case in several] == ["attention_varlen"] * 2 + ["attention_paged"] * 2
    for case in several:
        assert (claimed.seqlen_q, claimed.seqlen_kv) in case.lengths
        assert not case.required
    assert any(0 in lengths for lengths in several[1].lengths)
    assert all_asked_instead(claimed, None, Random(1), ("attention",))
    assert not all_asked_instead(claimed, CLAIM, Random(1), ())


def test_every_check_has_a_sequence_with_a_second_large_block() -> None:
    """Blocks of 256 tokens, which some kernels want, were asked with sequences of at most 100."""
    for seed in range(8):
        found = [x for x in all_cases(CLAIMED[0], CLAIM, Random(seed)) if isinstance(x, SequencesCase)]
        assert any(x.block_size >= 128 and x.block_size < max(keys for _, keys in x.lengths) for x in found)


def replaced(**changes: Any) -> Claim:
    return Claim("cpu", ("smoke",), **{"lse": True, "varlen": True, "paged": True, **changes})


def test_what_no_sequence_owns_is_no_number_and_no_block() -> None:
    generator = torch.Generator().manual_seed(3)
    kinds = set()
    for case in all_cases(CLAIMED[0], CLAIM, Random(3), longest=60):
        asked = draw_any(case, generator)
        if isinstance(case, SequencesCase) and case.is_padded and isinstance(asked, Packed):
            assert all(
                x[int(end[-1]) :].isnan().all() for x, end in zip(asked.tensors, asked.tables.values(), strict=False)
            )
            kinds.add("tokens")
        if isinstance(asked, Paged):
            size, used = asked.k.shape[1], set()
            for row, length in zip(asked.block_table.tolist(), asked.tables["cache_seqlens"].tolist(), strict=True):
                blocks = row[: -(-length // size)]
                used |= set(blocks)
                assert all(0 <= block < len(asked.k) for block in blocks)
                if blocks and length % size:
                    assert asked.k[blocks[-1], length % size :].isnan().all()
                    kinds.add("slots")
                if any(block not in range(len(asked.k)) for block in row[len(blocks) :]):
                    kinds.add("no blocks")
            unused = [block for block in range(len(asked.k)) if block not in used]
            assert asked.v[unused].isnan().all()
    assert kinds == {"tokens", "slots", "no blocks"}


def changed(**functions: Callable[..., Any]) -> Any:
    """The honest kernel with other functions."""
    names = ("attention", "attention_varlen", "attention_paged")
    return SimpleNamespace(**{name: getattr(everything, name) for name in names} | functions)


def with_lse(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """Every function returns another log-sum-exp: change(lse, q)."""

    def wrapped(name: str) -> Callable[..., Any]:
        def function(q: torch.Tensor, *rest: Any, **options: Any) -> Any:
            returned = getattr(everything, name)(q, *rest, **options)
            return (returned[0], change(returned[1], q)) if options.get("return_lse") else returned

        return function

    return changed(**{name: wrapped(name) for name in ("attention", "attention_varlen", "attention_paged")})


@pytest.mark.parametrize(
    "change",
    [
        lambda lse, q: lse / 0.6931472,
        lambda lse, q: lse + 1e-3,
        lambda lse, q: lse.bfloat16().float(),
        lambda lse, q: lse.nan_to_num(neginf=0.0),
        lambda lse, q: lse.flip(-1),
    ],
    ids=["base 2", "a key too many", "half precision", "zero where nothing is seen", "other rows"],
)
@pytest.mark.parametrize("function", ["attention", "attention_varlen", "attention_paged"])
def test_a_wrong_log_sum_exp_is_found(change: Callable[..., torch.Tensor], function: str) -> None:
    faults = found(with_lse(change), CLAIMED[0], seed=4, function=function)
    assert any("lse is" in fault for fault in faults)


def one_mask_for_all(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """Every sequence aligned as the longest is."""
    ends = {name: options[name].clone() for name in ("cu_seqlens_q", "cu_seqlens_k")}
    ends["cu_seqlens_k"][-1] = len(k)
    return everything.attention_varlen(q, k, v, **(options | ends))


def one_sequence(q: Any, k: Any, v: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, **options: Any) -> Any:
    both = (torch.stack((x[0], x[-1])) for x in (cu_seqlens_q, cu_seqlens_k))
    first, second = both
    options |= {"max_seqlen_q": len(q), "max_seqlen_k": len(k)}
    return everything.attention_varlen(q, k, v, cu_seqlens_q=first, cu_seqlens_k=second, **options)


def own_lengths_if_as_many(q: Any, k: Any, v: Any, *, cu_seqlens_k: Any, **options: Any) -> Any:
    """Self-attention wherever there are as many keys as queries in all."""
    ends = options["cu_seqlens_q"] if len(q) == len(k) else cu_seqlens_k
    return everything.attention_varlen(q, k, v, cu_seqlens_k=ends, **(options | {"max_seqlen_k": len(k)}))


def ones_without_keys(q: Any, k: Any, v: Any, **options: Any) -> Any:
    returned = everything.attention_varlen(q, k, v, **options)
    out = returned[0] if options.get("return_lse") else returned
    starts, ends = options["cu_seqlens_q"].tolist(), options["cu_seqlens_k"].diff().tolist()
    for start, end, keys in zip(starts, starts[1:], ends, strict=False):
        out[start:end] = 1.0 if keys == 0 else out[start:end]
    return returned


def whole_blocks(q: Any, k: Any, v: Any, *, cache_seqlens: Any, **options: Any) -> Any:
    size = k.shape[1]
    return everything.attention_paged(q, k, v, cache_seqlens=(cache_seqlens + size - 1) // size * size, **options)


def in_order(q: Any, k: Any, v: Any, *, block_table: Any, **options: Any) -> Any:
    return everything.attention_paged(q, k, v, block_table=block_table.clamp(0, len(k) - 1).sort(-1)[0], **options)


def without_the_last(q: Any, k: Any, v: Any, *, cache_seqlens: Any, **options: Any) -> Any:
    return everything.attention_paged(q, k, v, cache_seqlens=(cache_seqlens - 1).clamp_min(0), **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention_varlen": one_mask_for_all},
        {"attention_varlen": one_sequence},
        {"attention_varlen": own_lengths_if_as_many},
        {"attention_varlen": ones_without_keys},
        {"attention_paged": whole_blocks},
        {"attention_paged": in_order},
        {"attention_paged": without_the_last},
    ],
    ids=lambda wrong: next(iter(wrong.values())).__name__,
)
def test_wrong_sequences_are_found(wrong: dict[str, Callable[..., Any]]) -> None:
    for claimed in CLAIMED:
        assert found(changed(**wrong), claimed, seed=5, function=next(iter(wrong)))


def test_a_fault_says_in_which_sequence() -> None:
    faults = found(changed(attention_paged=without_the_last), replace_batch(CLAIMED[1], 3), seed=6)
    assert any("(sequence " in fault and " of 3, 1 queries and " in fault for fault in faults)


def replace_batch(claimed: Shape, batch: int) -> Shape:
    return Shape(**{name: getattr(claimed, name) for name in claimed.__struct_fields__} | {"batch": batch})


def test_a_seed_draws_the_same_again() -> None:
    one, again = (all_cases(CLAIMED[0], CLAIM, Random(7)) for _ in range(2))
    assert one == again
    first, second = (draw_any(one[-1], torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(first.tensors, second.tensors, strict=True))
    assert isinstance(replace(one[-1], required=False), SequencesCase)
