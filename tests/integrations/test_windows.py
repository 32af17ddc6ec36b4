"""A sliding window over a prompt, by blocks: what a mask over all keys says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.integrations.spans import KeyRun, Spans, spans_of_padding, windowed
from pytest_avo.integrations.windows import attend_window
from pytest_avo.kernels import use
from tests.kernels.measured_folder import builds, counted, results, used


@pytest.fixture(scope="module", autouse=True)
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kernel for prompts on CPUs, measured on small shapes."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, used(folder, prefill=counted("prefill")) as own:
        patch.setattr(tempfile, "tempdir", str(builds(tmp_path_factory)))
        shapes = [f"b1-h4kv2-q{n}-k{n}-d64-causal-f32" for n in (1, 2, 8, 32)]
        (folder / "results.json").write_text(results({"kernels/prefill.py": shapes}, ratio=50.0))
        use(own, results=[folder / "results.json"])
        yield


def band(queries: int, keys: int, window: int) -> torch.Tensor:
    place, last = torch.arange(keys), torch.arange(keys - queries, keys)[:, None]
    return (place <= last) & (place > last - window)


@pytest.mark.parametrize("window", [2, 3, 8])
@pytest.mark.parametrize("queries", [2, 7, 8, 9, 16, 29])
def test_each_query_sees_its_window(window: int, queries: int) -> None:
    for before in (0, window - 1, window + 3):
        q = torch.randn(1, queries, 4, 64).transpose(1, 2)
        k, v = (torch.randn(1, 2, queries + before, 64) for _ in "kv")
        expected = scaled_dot_product_attention(
            q, k, v, attn_mask=band(queries, queries + before, window), scale=0.3, enable_gqa=True
        )
        found = attend_window(q, k, v, window=window, scale=0.3)
        assert (found is None) == (queries < window)
        if found is not None:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_part_of_a_window_before_the_queries_is_the_mask_s() -> None:
    q, k = torch.randn(1, 4, 9, 64), torch.randn(1, 2, 12, 64)
    assert attend_window(q, k, k, window=5, scale=None) is None
    assert attend_window(q, k[:, :, :9], k[:, :, :9], window=5, scale=-1.0) is None


def test_a_mask_is_a_window_just_where_it_says_nothing_else() -> None:
    padding = torch.tensor([[True] * 9, [False, False] + [True] * 7])
    spans = spans_of_padding(padding, 2, 9, 9, 0, 0)
    mask = (band(9, 9, 4) & padding[:, None])[:, None]
    assert windowed(mask, spans, 4, 0) == Spans(9, 9, True, (KeyRun(0, 9, 0, 9), KeyRun(2, 9, 2, 9)), window=4)
    assert windowed(mask, spans, 5, 0) is None
    assert windowed(mask, spans, 4, 1) is None
    assert windowed(mask, None, 4, 0) is None
    mask[1, 0, 7, 6] = False
    assert windowed(mask, spans, 4, 0) is None
