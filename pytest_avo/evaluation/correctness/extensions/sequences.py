"""Calls on several sequences of different lengths, and each of the sequences on its own, as the reference sees it.

Whatever no sequence owns is NaN: tokens behind the last one, blocks in no table, slots behind a sequence's last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pytest_avo.core.signature import PAGED, VARLEN
from pytest_avo.evaluation.correctness.inputs import Arguments, Inputs


@dataclass(frozen=True, slots=True)
class Packed(Arguments):
    """Arguments of attention_varlen(): q (tokens, heads_q, head_dim), k and v (tokens, heads_kv, head_dim)."""

    sequences: tuple[Inputs, ...]
    """Each with batch 1, perhaps without queries or without keys."""
    slack: int = 0
    """How far the greatest lengths that a call is told exceed the real ones."""

    @property
    def function(self) -> str:
        return VARLEN.name

    @property
    def tables(self) -> Mapping[str, torch.Tensor]:
        lengths = self._lengths()
        return {f"cu_seqlens_{x}": _ends(each, self.q.device) for x, each in zip("qk", lengths, strict=True)}

    @property
    def numbers(self) -> Mapping[str, int]:
        return {f"max_seqlen_{x}": max(each) + self.slack for x, each in zip("qk", self._lengths(), strict=True)}

    def results(self, out: torch.Tensor, lse: torch.Tensor | None) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Of (tokens, heads_q, head_dim) and (heads_q, tokens) what belongs to each sequence, as of a plain call."""
        ends = torch.tensor(self._lengths()[0]).cumsum(0).tolist()
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        return [(out[at].transpose(0, 1)[None], None if lse is None else lse[None, :, at]) for at in spans]

    def _lengths(self) -> tuple[list[int], list[int]]:
        return [each.q.shape[2] for each in self.sequences], [each.k.shape[2] for each in self.sequences]


@dataclass(frozen=True, slots=True)
class Paged(Arguments):
    """Arguments of attention_paged(): q as in a plain call, k and v (blocks, block_size, heads_kv, head_dim)."""

    sequences: tuple[Inputs, ...]
    """Each with batch 1, perhaps without keys."""
    block_table: torch.Tensor
    """(batch, most blocks), int32."""

    @property
    def function(self) -> str:
        return PAGED.name

    @property
    def tables(self) -> Mapping[str, torch.Tensor]:
        lengths = torch.tensor([each.k.shape[2] for each in self.sequences], dtype=torch.int32, device=self.q.device)
        return {"block_table": self.block_table, "cache_seqlens": lengths}

    def results(self, out: torch.Tensor, lse: torch.Tensor | None) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Of the results for the whole batch what belongs to each sequence, as of a plain call."""
        each = range(len(self.sequences))
        return [(out[n : n + 1], None if lse is None else lse[n : n + 1]) for n in each]


def _ends(lengths: list[int], device: torch.device) -> torch.Tensor:
    """0 and where each sequence ends, int32."""
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
