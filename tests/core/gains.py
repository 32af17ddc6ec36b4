"""Evaluations of kernels that are faster or slower than their baseline by a known gain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.shape import Shape

ONE = Shape(batch=1, heads_q=2, heads_kv=2, seqlen_q=64, seqlen_kv=64, head_dim=64, causal=False, dtype="f32")
TWO = msgspec.structs.replace(ONE, causal=True)
HEAVY = msgspec.structs.replace(TWO, weight=3.0)


def timed(shape: Shape, *, gain: float, noise: float = 0.0005, launches: int = 1, seed: int = 0) -> Evaluation:
    """An evaluation whose kernel is faster than its baseline by a log-ratio, with some noise."""
    random = np.random.default_rng(seed)
    rounds = [[float(x) for x in random.normal(gain, noise, 20)] for _ in range(launches)]
    kernel = tuple(tuple(1e-3 for _ in launch) for launch in rounds)
    baseline = tuple(tuple(1e-3 * math.exp(x) for x in launch) for launch in rounds)
    return Evaluation(shape.id, "ok", timing=Timing({KERNEL: kernel, BASELINE: baseline}, calls=1, stopped=""))


def of_kinds(
    shape: Shape, gains: Mapping[str, float], *, rounds: int = 6, launches: int = 1, noise: float = 0.0005
) -> Evaluation:
    """An evaluation in whose rounds kinds of inputs take turns, with a gain of their own each."""
    random = np.random.default_rng(0)
    kinds = tuple(list(gains) * rounds)
    baseline = tuple(
        tuple(1e-3 * math.exp(gains[kind] + random.normal(0, noise)) for kind in kinds) for _ in range(launches)
    )
    kernel = ((1e-3,) * len(kinds),) * launches
    timing = Timing({KERNEL: kernel, BASELINE: baseline}, calls=1, stopped="", kinds=(kinds,) * launches)
    return Evaluation(shape.id, "ok", timing=timing)


def both(one: float, two: float, *, noise: float = 0.0005) -> dict[str, Evaluation]:
    return {
        ONE.id: timed(ONE, gain=one, noise=noise, seed=1),
        TWO.id: timed(TWO, gain=two, noise=noise, seed=2),
    }
