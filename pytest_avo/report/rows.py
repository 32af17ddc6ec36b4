"""One row per kernel and shape: the value every report is made of, and what rows add up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Comparison, Verdict


class ResultRow(msgspec.Struct, frozen=True):
    """The result of one item: what was judged, where, and the samples behind it."""

    node_id: str
    kernel: str
    """Path of the kernel file as the node id has it."""
    target: str
    device: str
    shape: Shape
    verdict: Verdict
    timing: Timing | None = None
    """What was measured; None when it was not timed."""
    seed: int = 0
    digest: str = ""
    """Digest of the kernel's source."""
    waited_s: float = 0.0
    """Seconds that the device was waited for, while other runs had it."""
    failed: bool = False
    """The item failed: what is wrong with the kernel, or the gate, stands in the verdict."""

    @property
    def samples_s(self) -> tuple[float, ...]:
        """Seconds per call of every round of the kernel's own arm, launch after launch; empty when it was not timed."""
        return () if self.timing is None else tuple(x for launch in self.timing.seconds[KERNEL] for x in launch)

    @property
    def median_s(self) -> float:
        """Median of the samples; there is at least one."""
        return median(self.samples_s)

    @property
    def roofline_fraction(self) -> float | None:
        """Throughput as a share of what the device was measured to reach at best; None where that is not known."""
        if self.timing is None or not self.timing.least_s or not self.verdict.is_good:
            return None
        return self.timing.least_s / self.median_s

    @property
    def calls(self) -> int:
        """Calls that one sample is the mean of."""
        return 1 if self.timing is None else self.timing.calls


def is_timed(row: ResultRow) -> bool:
    """Whether the row has figures that files of results can hold: those of a right kernel, all finite."""
    return row.verdict.is_good and bool(row.samples_s) and all(map(math.isfinite, row.samples_s))


class Geomean(msgspec.Struct, frozen=True):
    """Weighted geometric mean of peer time / kernel time: above 1 the kernel is faster."""

    ratio: float
    ci95: tuple[float, float]
    shapes: int
    """How many rows it is the mean of."""


def result_row(
    evaluation: Evaluation, verdict: Verdict, *, node_id: str, kernel: str, target: str, shape: Shape, digest: str = ""
) -> ResultRow:
    """The row of an evaluation and the verdict on it."""
    return ResultRow(
        node_id=node_id,
        kernel=kernel,
        target=target,
        device=evaluation.device,
        shape=shape,
        verdict=verdict,
        timing=evaluation.timing,
        seed=evaluation.seed,
        digest=digest,
        waited_s=evaluation.waited_s,
    )


def comparisons(row: ResultRow) -> dict[str, Comparison]:
    """Everything the kernel was timed beside: the baseline first, where there is one, then the peers."""
    named = row.verdict.baseline
    return ({} if named is None else {BASELINE: named}) | row.verdict.peers


def best_peer(row: ResultRow) -> str:
    """Name of the fastest of the peers that the kernel was timed beside; "" where there are not several."""
    peers = row.verdict.peers
    return min(peers, key=lambda name: peers[name].ratio) if len(peers) > 1 else ""


def arms(rows: Iterable[ResultRow]) -> tuple[str, ...]:
    """Names of all that rows were timed beside, in order of first appearance, the baseline first."""
    names = dict.fromkeys(name for row in rows for name in comparisons(row))
    return tuple(sorted(names, key=lambda name: name != BASELINE))


def with_named_baseline(rows: Iterable[ResultRow], name: str) -> list[ResultRow]:
    """Rows whose baseline is shown under the name of what it is."""
    named = []
    for row in rows:
        verdict = row.verdict
        if verdict.baseline is not None:
            peers = {name: verdict.baseline, **verdict.peers}
            verdict = msgspec.structs.replace(verdict, baseline=None, peers=peers)
        named.append(msgspec.structs.replace(row, verdict=verdict))
    return named


def by_kernel(rows: Iterable[ResultRow]) -> dict[tuple[str, str], list[ResultRow]]:
    """Rows per (kernel, device) in order of first appearance: figures of two devices never stand in one table."""
    groups: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows:
        groups.setdefault((row.kernel, row.device), []).append(row)
    return groups


def geomeans(rows: Iterable[ResultRow]) -> dict[str, Geomean]:
    """The weighted geomean against the baseline and every peer, over the shapes that were timed beside it.

    A kernel that is not correct on every shape has no score: none of its rows counts.
    """
    scored = [row for group in by_kernel(rows).values() if all(x.verdict.is_good for x in group) for row in group]
    found: dict[str, Geomean] = {}
    for name in arms(scored):
        pairs = [(row.shape.weight, comparisons(row)[name]) for row in scored if name in comparisons(row)]
        found[name] = geomean(pairs)
    return found


def geomean(pairs: Sequence[tuple[float, Comparison]]) -> Geomean:
    """Combine ratios r_i with weights w_i (that sum to 1) on the log scale: L = sum w_i log r_i.

    Each 95% interval gives a half width h_i = (log high_i - log low_i) / 2 = 1.96 s_i. For independent shapes the
    variances add, s^2 = sum w_i^2 s_i^2, so the 95% interval of L is L +- sqrt(sum (w_i h_i)^2); exp() of it all is
    the geomean. What shapes share (one launch, one clock) is not in it: with the raw samples at hand,
    core.stats.geomean_interval is the better answer.
    """
    total = sum(weight for weight, _ in pairs)
    mean = sum(weight / total * math.log(peer.ratio) for weight, peer in pairs)
    half = math.hypot(*(weight / total * math.log(peer.ci95[1] / peer.ci95[0]) / 2 for weight, peer in pairs))
    return Geomean(ratio=math.exp(mean), ci95=(math.exp(mean - half), math.exp(mean + half)), shapes=len(pairs))
