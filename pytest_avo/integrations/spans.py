"""Masks that let each sequence of a batch see one run of keys, as padding makes them, told as numbers beside the mask.

A mask keeps its note in an attribute of the tensor: whoever cuts, copies or changes the mask loses it, and attention
falls back on the mask itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch

ATTRIBUTE = "_avo_spans"


class KeyRun(NamedTuple):
    """The keys that a sequence sees and the queries that see any, each from the first to behind the last."""

    first_query: int
    last_query: int
    first_key: int
    last_key: int


@dataclass(frozen=True, slots=True)
class Spans:
    """A span for each sequence of a batch; `causal`: aligned bottom-right within its span.

    `window`: how many keys a query sees at most, its own and those before it; None where it sees all of its span.
    """

    q_length: int
    kv_length: int
    causal: bool
    each: tuple[KeyRun, ...]
    window: int | None = None

    def groups(self) -> list[tuple[slice, KeyRun]]:
        """Neighbours in the batch with the same span, as a slice of the batch."""
        found = []
        start = 0
        for span, members in groupby(self.each):
            end = start + len(list(members))
            found.append((slice(start, end), span))
            start = end
        return found


def note(mask: torch.Tensor, spans: Spans | None) -> torch.Tensor:
    """The mask itself, with the spans that it amounts to."""
    if spans is not None:
        setattr(mask, ATTRIBUTE, (_version(mask), spans))
    return mask


def noted(mask: torch.Tensor) -> Spans | None:
    """The spans of a mask that is still as it was noted."""
    version, spans = getattr(mask, ATTRIBUTE, (None, None))
    return spans if spans is not None and version == _version(mask) else None


def _version(mask: torch.Tensor) -> int:
    """How often the mask was changed in place; tensors of inference mode do not count that."""
    return -1 if mask.is_inference() else mask._version


def windowed(mask: torch.Tensor, spans: Spans | None, window: int, offset: int) -> Spans | None:
    """The spans with a window of so many keys, where that is all that a mask (batch, 1, seqlen_q, seqlen_kv) says.

    `offset` is the position of the first query among the keys. None where the mask says anything else.
    """
    if spans is None or mask.shape != (len(spans.each), 1, spans.q_length, spans.kv_length):
        return None
    keys = torch.arange(spans.kv_length, device=mask.device)
    last = torch.arange(offset, offset + spans.q_length, device=mask.device)[:, None]
    band = (keys <= last) & (keys > last - window)
    for row, run in enumerate(spans.each):
        if not torch.equal(mask[row, 0], band & (keys >= run.first_key) & (keys < run.last_key)):
            return None
    return replace(spans, window=window)


def spans_of_mask(mask: torch.Tensor) -> Spans | None:
    """Of a mask (batch, 1, 1, seqlen_kv), True where a key is seen; None where some sequence sees no single run."""
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2] != 1 or mask.dtype is not torch.bool:
        return None
    runs = _runs(mask[:, 0, 0])
    if runs is None:
        return None
    each = tuple(KeyRun(0, 1, first, last) for first, last in runs)
    return Spans(q_length=1, kv_length=mask.shape[3], causal=False, each=each)


def spans_of_padding(
    padding: torch.Tensor | None, batch: int, q_length: int, kv_length: int, kv_offset: int, offset: int | None
) -> Spans | None:
    """Of a causal mask over padding (batch, seqlen), True where a token is real, as transformers has it.

    `offset` is the position of the first query among the keys, which begin at `kv_offset` of the padding; None where
    every query sees every real key. None is returned where some sequence's real keys are no single run.
    """
    if padding is None:
        runs: list[tuple[int, int]] | None = [(0, kv_length)] * batch
    else:
        seen = padding[:, kv_offset : kv_offset + kv_length]
        runs = _runs(seen) if seen.dim() == 2 and seen.shape[0] == batch else None
    if runs is None:
        return None
    each = []
    for first, end in runs:
        if offset is None:
            each.append(KeyRun(0, q_length, first, end))
            continue
        last = min(end, offset + q_length)
        span = KeyRun(max(0, first - offset), last - offset, first, last)
        if span.last_query <= span.first_query or last <= first:
            return None
        each.append(span)
    return Spans(q_length=q_length, kv_length=kv_length, causal=offset is not None, each=tuple(each))


def _runs(seen: torch.Tensor) -> list[tuple[int, int]] | None:
    """First and behind the last True of each row; None where a row has none, or a gap between."""
    if not seen.shape[0] or not seen.shape[1]:
        return None
    flags = seen.to(torch.uint8)
    first = flags.argmax(dim=-1)
    last = seen.shape[1] - flags.flip(-1).argmax(dim=-1)
    count = flags.sum(dim=-1)
    found: list[list[int]] = torch.stack([first, last, count]).tolist()
    if any(end - start != number for start, end, number in zip(*found, strict=True)):
        return None
    return list(zip(found[0], found[1], strict=True))
