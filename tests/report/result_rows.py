"""Rows for the report tests, written as short as their differences."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_avo.core.evaluation import KERNEL as KERNEL_ARM
from pytest_avo.core.evaluation import Timing
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Comparison, Verdict, VerdictKind
from pytest_avo.report.rows import ResultRow

KERNEL = "kernels/cpu/prefill.py"
BAD: frozenset[VerdictKind] = frozenset({"incorrect", "crashed", "timeout", "rejected", "unsupported"})


def shape(*, batch: int = 1, seqlen: int = 512, queries: int | None = None, weight: float = 1.0) -> Shape:
    return Shape(
        batch=batch,
        heads_q=8,
        heads_kv=8,
        seqlen_q=seqlen if queries is None else queries,
        seqlen_kv=seqlen,
        head_dim=64,
        causal=True,
        dtype="f32",
        weight=weight,
    )


def beside(ratio: float, low: float, high: float, median_us: float = 1210.0) -> Comparison:
    return Comparison(median_us=median_us, ratio=ratio, ci95=(low, high))


def row(
    of: Shape,
    kind: VerdictKind = "correct",
    *,
    reason: str = "",
    median_us: float = 400.0,
    peers: Mapping[str, Comparison] | None = None,
    baseline: Comparison | None = None,
    kernel: str = KERNEL,
    device: str = "cpu",
    notes: tuple[str, ...] = (),
    samples_s: tuple[float, ...] = (0.001, 0.0011, 0.0009),
    seed: int = 7,
) -> ResultRow:
    """A row whose figures follow from `median_us`; a bad one has none, as judge() makes it."""
    node_id = f"{kernel}::{of.id}"
    if kind in BAD:
        verdict = Verdict(of.id, kind, reason, notes=notes)
        return ResultRow(node_id, kernel, "cpu", device, of, verdict, seed=seed)
    verdict = Verdict(
        of.id,
        kind,
        reason,
        median_us=median_us,
        tflops=of.flops / median_us / 1e6,
        gbps=of.bytes_moved / median_us / 1e3,
        baseline=baseline,
        peers=dict(peers or {}),
        notes=notes,
    )
    timing = (
        Timing(dict.fromkeys((KERNEL_ARM, *verdict.peers), (samples_s,)), calls=3, stopped="") if samples_s else None
    )
    return ResultRow(node_id, kernel, "cpu", device, of, verdict, timing, seed=seed)
