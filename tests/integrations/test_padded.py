"""Single tokens behind sequences of different lengths, by one call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.integrations.padded import attend_padded
from pytest_avo.integrations.spans import spans_of_mask
from pytest_avo.kernels import use
from tests.kernels.measured_folder import builds, calls, counted, results, used


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernel for single tokens on CPUs, measured on a small shape."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, used(folder, decode=counted("decode")) as own:
        patch.setattr(tempfile, "tempdir", str(builds(tmp_path_factory)))
        (folder / "results.json").write_text(results({"kernels/decode.py": ["b1-h4kv2-q1-k16-d64-full-f32"]}))
        use(own, results=[folder / "results.json"])
        yield own


@pytest.mark.parametrize("layout", ["a cache", "as models", "in a longer cache"])
def test_each_sequence_sees_its_own_keys_in_one_call(kernels: Path, layout: str) -> None:
    q, seen = torch.randn(4, 4, 1, 64), torch.ones(4, 1, 1, 13, dtype=torch.bool)
    seen[1, ..., :5] = seen[2, ..., 9:] = seen[3, ..., :12] = False
    match layout:
        case "as models":
            k, v = (torch.randn(4, 13, 2, 64).transpose(1, 2) for _ in "kv")
        case "in a longer cache":
            k, v = (torch.randn(4, 2, 17, 64)[:, :, 2:15] for _ in "kv")
        case _:
            k, v = (torch.randn(4, 2, 13, 64) for _ in "kv")
    spans = spans_of_mask(seen)
    assert spans is not None
    before = len(calls(kernels, "decode"))
    found = attend_padded(q, k, v, spans, None)
    assert found is not None
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True))
    assert len(calls(kernels, "decode")) == before + 1


def test_what_lies_in_no_rows_is_the_mask_s() -> None:
    q, k = torch.randn(3, 4, 1, 64), torch.randn(3, 2, 13, 64)
    spans = spans_of_mask(torch.arange(13) >= torch.arange(3)[:, None, None, None])
    assert spans is not None
    assert attend_padded(q, k, k.transpose(1, 2).contiguous().transpose(1, 2), spans, None) is None
    assert attend_padded(q, k[:, :, :1].expand(-1, -1, 13, -1), k[:, :, :1].expand(-1, -1, 13, -1), spans, None) is None
    assert attend_padded(q, k, k, spans, -0.5) is None
    assert attend_padded(q.double(), k.double(), k.double(), spans, None) is None
