"""What a change of tunables may be expected to gain, judged by the configurations measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_avo.core.kernel import Tunable
from pytest_avo.operators.tuner.search import Configuration, Measured, position

RIDGE = 0.1
"""Penalty on squared effects, against a weight of 1 for each measurement: makes the fit unique, hardly shrinks it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """An expected log-ratio to the old configuration, above zero faster, and how many measurements have a new value."""

    log_ratio: float
    evidence: int


def predict(
    tunables: Sequence[Tunable], measured: Sequence[Measured], *, old: Configuration, new: Configuration
) -> Prediction | None:
    """The expected effect of going from `old` to `new`; None when some changed value was never measured.

    Ridge regression of the log score on one indicator per value: the effects of several changes add up. Differences of
    mean scores would credit a value with all else that its attempts had in common.
    """
    scored = [(one.values, one.score) for one in measured if one.score is not None]
    changed = [tunable.name for tunable in tunables if new[tunable.name] != old[tunable.name]]
    having = [[values[name] == new[name] for values, _ in scored] for name in changed]
    if not all(any(column) for column in having):
        return None
    rows = np.stack([_indicators(tunables, values) for values, _ in scored])
    scores = np.array([score for _, score in scored])
    centred = rows - rows.mean(axis=0)
    normal = centred.T @ centred + RIDGE * np.eye(rows.shape[1])
    effects = np.linalg.solve(normal, centred.T @ (scores - scores.mean()))
    difference = _indicators(tunables, new) - _indicators(tunables, old)
    return Prediction(float(difference @ effects), sum(any(column) for column in zip(*having, strict=True)))


def _indicators(tunables: Sequence[Tunable], values: Configuration) -> NDArray[np.float64]:
    """One number per choice of every tunable: 1 where it is the configuration's, else 0."""
    parts = [np.eye(len(tunable.choices))[position(tunable, values[tunable.name])] for tunable in tunables]
    return np.concatenate(parts)
