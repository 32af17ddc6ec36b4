"""Fresh arguments for the optional functions of a kernel: every sequence drawn on its own, then put together."""

from __future__ import annotations

import torch

from pytest_avo.core.shape import Shape
from pytest_avo.core.signature import VARLEN
from pytest_avo.evaluation.correctness.extensions.cases import SPARE_BLOCKS, SPARE_TOKENS, SequencesCase
from pytest_avo.evaluation.correctness.extensions.sequences import Packed, Paged
from pytest_avo.evaluation.correctness.inputs import Arguments, Case, Inputs, draw
from pytest_avo.evaluation.correctness.layouts import Layout, laid_out

BEYOND = (-1, 1 << 30)
"""What stands in a table behind a sequence's last block: no blocks at all."""


def draw_any(case: Case | SequencesCase, generator: torch.Generator) -> Arguments:
    """Fresh random arguments of a case of any function of a kernel."""
    return draw(case, generator) if isinstance(case, Case) else draw_sequences(case, generator)


def draw_sequences(case: SequencesCase, generator: torch.Generator) -> Packed | Paged:
    """Fresh random arguments of a case, quantised to its dtype, on the generator's device."""
    sequences = [_sequence(case, number, generator) for number in range(len(case.lengths))]
    return _packed(case, sequences) if case.function == VARLEN.name else _paged(case, sequences, generator)


def _sequence(case: SequencesCase, number: int, generator: torch.Generator) -> Inputs:
    """One sequence with batch 1; what is to be empty is drawn with one token and cut."""
    queries, keys = case.lengths[number]
    sizes = {"batch": 1, "seqlen_q": max(1, queries), "seqlen_kv": max(1, keys)}
    shape = Shape(**{name: getattr(case.shape, name) for name in case.shape.__struct_fields__} | sizes)
    drawn = draw(Case(case.name, shape, case.kinds[number]), generator)
    return Inputs(drawn.q[:, :, :queries], drawn.k[:, :, :keys], drawn.v[:, :, :keys], drawn.causal, drawn.scale)


def _packed(case: SequencesCase, sequences: list[Inputs]) -> Packed:
    def together(parts: list[torch.Tensor], layout: Layout) -> torch.Tensor:
        spare = parts[0].new_full((1, parts[0].shape[1], SPARE_TOKENS, parts[0].shape[3]), torch.nan)
        tokens = torch.cat([*parts, spare] if case.is_padded else parts, dim=2)
        return laid_out(tokens, layout)[0].transpose(0, 1)

    columns = zip(*(each.tensors for each in sequences), strict=True)
    q, k, v = (together(list(parts), layout) for parts, layout in zip(columns, case.layouts, strict=True))
    first = sequences[0]
    return Packed(q, k, v, first.causal, first.scale, tuple(sequences), slack=SPARE_TOKENS if case.is_padded else 0)


def _paged(case: SequencesCase, sequences: list[Inputs], generator: torch.Generator) -> Paged:
    size, device = case.block_size, sequences[0].q.device
    counts = [-(-keys // size) for _, keys in case.lengths]
    numbers = torch.randperm(sum(counts) + SPARE_BLOCKS, generator=generator, device=device).tolist()
    rows = [[numbers.pop() for _ in range(count)] for count in counts]
    if case.is_shared:
        _share(rows, sequences, size)
    most = max(1, *counts) + (SPARE_BLOCKS if case.is_padded else 0)
    beyond = [BEYOND[(n + len(rows)) % 2] if case.is_padded else numbers[0] for n in range(most)]
    table = torch.tensor([[*row, *beyond[len(row) :]] for row in rows], dtype=torch.int32, device=device)

    def cache(parts: list[torch.Tensor], layout: Layout) -> torch.Tensor:
        heads, head_dim = parts[0].shape[1], parts[0].shape[3]
        blocks = parts[0].new_full((sum(counts) + SPARE_BLOCKS, heads, size, head_dim), torch.nan)
        for row, part in zip(rows, parts, strict=True):
            for number, block in enumerate(row):
                tokens = part[0, :, number * size : (number + 1) * size]
                blocks[block, :, : tokens.shape[1]] = tokens
        return laid_out(blocks, layout).transpose(1, 2)

    q = laid_out(torch.cat([each.q for each in sequences]), case.layouts[0])
    k = cache([each.k for each in sequences], case.layouts[1])
    v = cache([each.v for each in sequences], case.layouts[2])
    return Paged(q, k, v, sequences[0].causal, sequences[0].scale, tuple(sequences), table)


def _share(rows: list[list[int]], sequences: list[Inputs], size: int) -> None:
    """Give all sequences with a full first block that of the first of them, and its numbers, in place."""
    full = [number for number, each in enumerate(sequences) if each.k.shape[2] >= size]
    for number in full[1:]:
        rows[number][0] = rows[full[0]][0]
        sequences[number].k[:, :, :size] = sequences[full[0]].k[:, :, :size]
        sequences[number].v[:, :, :size] = sequences[full[0]].v[:, :, :size]
