"""Errors of an output and their limits, block of rows by block: the rule that `correctness` states, as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.reference import Part, computed

BLOCK_ROWS = 128
EXPECTED = 0.98
"""Of what a row is expected to err by, with room for a reference that is nearly exact."""
NOTHING = 1e-300
"""Added to a limit that may be zero, where nothing may be wrong."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Factors of the error rule.

    max(e) <= peak * max(p) + peak_eps * eps and rms(e) <= rms * rms(p) + (rms_eps + rms_output_eps * rms(r)) * eps.
    """

    peak: float
    peak_eps: float
    rms: float
    rms_eps: float
    rms_output_eps: float


HALF = Tolerance(peak=2.0, peak_eps=2.0, rms=2.0, rms_eps=0.0, rms_output_eps=0.25)
SINGLE = Tolerance(peak=5.0, peak_eps=16.0, rms=5.0, rms_eps=8.0, rms_output_eps=0.0)


@dataclass(frozen=True, slots=True)
class Margins:
    """Errors of a part and their limits, each (batches, heads_kv, group, blocks), divided by the largest value."""

    peak: torch.Tensor
    peak_limit: torch.Tensor
    rms: torch.Tensor
    rms_limit: torch.Tensor

    @property
    def exceeded(self) -> torch.Tensor:
        """Where an error is beyond its limit, or is no number."""
        return ~((self.peak <= self.peak_limit) & (self.rms <= self.rms_limit))

    @property
    def shares(self) -> torch.Tensor:
        """The larger error of each block as a share of its limit."""
        return torch.maximum(self.peak / self.peak_limit, self.rms / self.rms_limit)

    def limits(self, place: Sequence[int]) -> tuple[float, float]:
        """Of the largest error and of the root mean square, at (batch, head_kv, head, block)."""
        at = tuple(place)
        return float(self.peak_limit[at]), float(self.rms_limit[at])


@dataclass(frozen=True, slots=True)
class Errors:
    """A part's errors and exact results, both divided by the largest value; (batches, heads_kv, group, rows, d)."""

    error: torch.Tensor
    exact: torch.Tensor
    largest: torch.Tensor
    rule: Tolerance
    dtype: torch.dtype

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps

    @property
    def rounding(self) -> torch.Tensor:
        """How far the exact results are from the nearest numbers of the dtype, of which any yardstick consists."""
        return ((self.exact * self.largest).to(self.dtype).double() / self.largest - self.exact).abs_()


def errors_of(inputs: Inputs, out: torch.Tensor, part: Part, right: torch.Tensor) -> Errors:
    """Errors of a part of an output (batch, heads_q, seqlen_q, head_dim); right: that part's exact results."""
    got = part.queries(out, inputs.q.shape[1] // inputs.k.shape[1])
    largest = largest_values(inputs, part)
    right = right / largest
    rule = SINGLE if got.dtype == torch.float32 else HALF
    return Errors((got.double() / largest - right).abs_(), right, largest, rule, got.dtype)


def margins(inputs: Inputs, out: torch.Tensor, part: Part) -> Margins:
    """How far the errors of a part are from their limits.

    out: the whole output, (batch, heads_q, seqlen_q, head_dim).
    """
    return margins_of(inputs, part, errors_of(inputs, out, part, computed(inputs, part, torch.float64)))


def margins_of(inputs: Inputs, part: Part, found: Errors) -> Margins:
    """How far errors are from their limits, for which the yardstick is computed."""
    rule, eps = found.rule, found.eps
    yardstick = (computed(inputs, part, inputs.q.dtype).double() / found.largest - found.exact).abs_()
    peak_limit = rule.peak * yardstick.amax((2, 3, 4), keepdim=True)[..., 0] + rule.peak_eps * eps
    overall = yardstick.square().mean((2, 3, 4), keepdim=True)[..., 0].sqrt()
    rms_limit = rule.rms * torch.maximum(rms_of(yardstick), overall) + rule.rms_eps * eps + NOTHING
    if rule.rms_output_eps:
        rms_limit += rule.rms_output_eps * eps * rms_of(found.exact)
    peak = _blocks(found.error).amax((4, 5))
    return Margins(peak, peak_limit.expand_as(peak), rms_of(found.error), rms_limit)


def surely_right(found: Errors) -> bool:
    """Whether errors are within limits by what is known of the yardstick without computing it.

    Its elements are numbers of the dtype, so none errs by less than the nearest of these does.
    """
    rule, eps = found.rule, found.eps
    if not float(found.error.max()) <= rule.peak_eps * eps:
        return False
    error = rms_of(found.error)
    limit = torch.full_like(error, rule.rms_eps * eps)
    if rule.rms_output_eps:
        limit += rule.rms_output_eps * eps * rms_of(found.exact)
    return bool((error <= limit).all()) or bool((error <= limit + rule.rms * rms_of(found.rounding)).all())


def doubtful_places(errors: Errors, found: Margins) -> list[list[int]]:
    """Places (batch, head_kv, head, block) where errors exceed limits and a second look is not known to forgive them.

    It leaves rows out that are expected to err by more than the block may; to round their result is the least of that.
    """
    exceeded = found.exceeded
    if not bool(exceeded.any()):
        return []
    limit = found.rms_limit[..., None]
    expected = errors.eps / 2 / math.sqrt(3) * _by_rows(errors.exact)
    forgiven = ((_by_rows(errors.error) <= limit) | (EXPECTED * expected > limit)).all(-1)
    places: list[list[int]] = (exceeded & ~(forgiven & (found.peak <= found.peak_limit))).nonzero().tolist()
    return places


def _by_rows(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of every row, (..., blocks, BLOCK_ROWS), zero behind the last."""
    return _blocks(x).square().mean(-1).sqrt()


def largest_values(inputs: Inputs, part: Part) -> torch.Tensor:
    """The largest value of each key/value head, (batches, heads_kv, 1, 1, 1), in float64."""
    return part.keys(inputs.v).abs().amax((2, 3)).double().clamp_min(1e-30)[:, :, None, None, None]


def _blocks(x: torch.Tensor) -> torch.Tensor:
    """(..., rows, head_dim) as (..., blocks, BLOCK_ROWS, head_dim), the last block filled up with zeros."""
    size = min(BLOCK_ROWS, x.shape[-2])
    padded = torch.nn.functional.pad(x, (0, 0, 0, missing)) if (missing := -x.shape[-2] % size) else x
    return padded.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def rms_of(x: torch.Tensor) -> torch.Tensor:
    """Root mean square (..., blocks) of every head in every block of rows."""
    sums = _blocks(x.square()).sum((-2, -1))
    rows = torch.full((sums.shape[-1],), min(BLOCK_ROWS, x.shape[-2]), device=x.device)
    rows[-1] = x.shape[-2] - BLOCK_ROWS * (sums.shape[-1] - 1)
    return (sums / (rows * x.shape[-1])).sqrt()
