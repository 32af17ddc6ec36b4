"""Randomness that cannot be foreseen: every bit of a seed counts, and every row of a timed round is new."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_avo.evaluation.correctness.inputs import WORTH_A_CORE, Stream
from pytest_avo.evaluation.correctness.noise import Numbers, generator
from tests.evaluation.laboratory import shape


def test_every_bit_of_a_seed_counts() -> None:
    """torch takes 32 bits of it: two seeds that differ in a higher one drew the same."""
    seeds = [5, 5 + (1 << 32), 5 + (1 << 40), 5 + (1 << 100)]
    assert len({float(torch.randn(1, generator=generator(seed, "cpu"))) for seed in seeds}) == 4
    assert torch.equal(torch.randn(9, generator=generator(5, "cpu")), torch.randn(9, generator=generator(5, "cpu")))


def test_the_state_is_the_twister_of_the_seed() -> None:
    """NumPy's twister, which documents its state, draws the same words."""
    twister = np.random.MT19937()
    words = np.random.SeedSequence(5).generate_state(624, np.uint32)
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(words, np.uint32), "pos": 624}}
    drawn = torch.randint(1 << 32, (4,), generator=generator(5, "cpu"), dtype=torch.int64)
    assert set(drawn.tolist()) <= set(twister.random_raw(8).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_has_mean_0_and_variance_1(dtype: torch.dtype) -> None:
    drawn = Numbers(generator(1, "cpu")).draw(400, 500, dtype=dtype)
    assert drawn.dtype == dtype
    assert abs(float(drawn.double().mean())) < 0.01
    assert abs(float(drawn.double().std()) - 1) < 0.01


def test_no_row_of_a_stream_comes_again() -> None:
    """A pool of rows could be learnt from the first calls, and recognised by one cache line."""
    stream = Stream(shape(heads=(8, 8), lengths=(1, 4096)), generator(1, "cpu"))
    rows = torch.cat([stream.draw(1)[0].k[..., :2].reshape(-1, 2).abs() for _ in range(2)])
    assert len(torch.unique(rows, dim=0)) > 0.999 * len(rows)


def test_what_is_drawn_follows_from_the_seed_whichever_thread_draws_it() -> None:
    wide = shape(heads=(8, 8), lengths=(1, 4096))
    first, second = (Stream(wide, generator(1, "cpu")).draw(2) for _ in range(2))
    assert wide.heads_kv * wide.seqlen_kv * wide.head_dim >= WORTH_A_CORE
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one.tensors, other.tensors))
    (drawn,) = Stream(wide, generator(1, "cpu")).draw(1)
    assert not torch.equal(drawn.k, drawn.v)
