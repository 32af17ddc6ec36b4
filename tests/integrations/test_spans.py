"""What a mask says as numbers, and that a changed mask says nothing."""

from __future__ import annotations

import torch

from pytest_avo.integrations.spans import KeyRun, Spans, note, noted, spans_of_mask, spans_of_padding


def shown(spans: Spans, batch: int) -> torch.Tensor:
    """The mask that spans stand for."""
    mask = torch.zeros(batch, spans.q_length, spans.kv_length, dtype=torch.bool)
    for row, run in enumerate(spans.each):
        queries, keys = run.last_query - run.first_query, run.last_key - run.first_key
        seen = torch.ones(queries, keys, dtype=torch.bool)
        mask[row, run.first_query : run.last_query, run.first_key : run.last_key] = (
            seen.tril(keys - queries) if spans.causal else seen
        )
    return mask


def padding(*runs: tuple[int, int], length: int) -> torch.Tensor:
    mask = torch.zeros(len(runs), length, dtype=torch.bool)
    for row, (first, last) in enumerate(runs):
        mask[row, first:last] = True
    return mask


def test_causal_masks_over_padding() -> None:
    for q_length, offset in ((10, 0), (4, 6), (1, 9), (3, 2)):
        real = padding((0, 10), (2, 10), (3, 8), length=10)
        spans = spans_of_padding(real, 3, q_length, 10, 0, offset)
        if spans is None:
            assert offset == 9  # a sequence of which the only query is padding
            continue
        positions = torch.arange(q_length) + offset
        expected = (positions[:, None] >= torch.arange(10)) & real[:, None, :]
        for row, run in enumerate(spans.each):
            rows = slice(run.first_query, run.last_query)
            assert shown(spans, 3)[row, rows].equal(expected[row, rows])
            assert not expected[row, : run.first_query].any()


def test_gaps_and_empty_rows_are_no_spans() -> None:
    gap = torch.tensor([[True, False, True, True]])
    assert spans_of_padding(gap, 1, 4, 4, 0, 0) is None
    assert spans_of_padding(torch.zeros(1, 4, dtype=torch.bool), 1, 4, 4, 0, 0) is None
    assert spans_of_mask(gap[:, None, None]) is None
    assert spans_of_mask(gap[:, None, None].float()) is None
    assert spans_of_mask(torch.ones(1, 1, 2, 4, dtype=torch.bool)) is None


def test_runs_of_single_tokens_and_their_groups() -> None:
    spans = spans_of_mask(padding((0, 5), (0, 5), (2, 5), length=6)[:, None, None])
    assert spans is not None
    assert spans.groups() == [(slice(0, 2), KeyRun(0, 1, 0, 5)), (slice(2, 3), KeyRun(0, 1, 2, 5))]


def test_a_mask_that_was_changed_is_no_longer_noted() -> None:
    spans = spans_of_padding(None, 1, 4, 4, 0, 0)
    mask = note(torch.ones(1, 1, 4, 4, dtype=torch.bool), spans)
    assert noted(mask) is spans
    assert noted(mask.clone()) is None
    assert noted(mask[:, :, :2]) is None
    mask[0, 0, 0, 0] = False
    assert noted(mask) is None
    with torch.inference_mode():
        assert noted(note(torch.ones(1, 1, 4, 4, dtype=torch.bool), spans)) is spans
