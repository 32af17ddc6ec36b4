"""Versions of a kernel by the names a model calls them: seed, incumbent, g0007, and g0007.1 for another member."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict, judge
from pytest_avo.lineage.records import Attempt, AttemptOutcome
from pytest_avo.lineage.view import View

NUMBER = re.compile(r"g?([0-9]{1,9})(?:\.([0-9]{1,9}))?")
LISTED = 12
"""Names that are told to who asks for one that there is not: the last ones."""


class UnknownVersion(ValueError):
    """A name that no attempt of the run has; the message says which names there are."""


def version_name(attempt: Attempt) -> str:
    """What an attempt is called."""
    return "seed" if attempt.parent is None else _name(attempt.generation, attempt.member)


def _name(generation: int, member: int) -> str:
    return f"g{generation:04d}" + (f".{member}" if member else "")


def _in_full(name: str) -> str:
    """The name of a version that was called by its number alone, as tables and the lines in a kernel's file have it."""
    found = NUMBER.fullmatch(name)
    return name if found is None else _name(int(found[1]), int(found[2] or 0))


def find_version(view: View, name: str, *, promoted_only: bool) -> Attempt:
    """The attempt of this name; UnknownVersion where there is none, or none that may be seen."""
    attempts = visible(view, promoted_only=promoted_only)
    if name == "incumbent" and (incumbent := view.incumbent()):
        return incumbent
    wanted = _in_full(name)
    for attempt in attempts:
        if version_name(attempt) == wanted:
            return attempt
    if not attempts:
        raise UnknownVersion(f"there is no version {name!r}: the run has no attempt yet, not even its seed")
    known = ", ".join(["..."] * (len(attempts) > LISTED) + [version_name(each) for each in attempts[-LISTED:]])
    raise UnknownVersion(f"there is no version {name!r}: expected seed, incumbent or one of {known}")


def visible(view: View, *, promoted_only: bool) -> list[Attempt]:
    """The attempts, oldest first; without memory only the seed and what was promoted."""
    outcomes = view.outcomes()
    return [
        attempt
        for attempt in view.attempts()
        if not promoted_only or (attempt.id in outcomes and outcomes[attempt.id].status in {"promoted", "kept", "seed"})
    ]


def line(attempt: Attempt, outcome: AttemptOutcome | None, score: float | None) -> str:
    """An attempt in one line: name, how it ended, gain over its parent, speed against the seed, hypothesis, reason."""
    parts = [version_name(attempt), outcome.status if outcome else "under way"]
    if outcome and (measured := outcome.confirmed or outcome.gain):
        parts.append(f"{spelled(measured.exp())} over its parent")
    if score is not None and attempt.parent is not None:
        parts.append(f"{math.exp(score):.3f}x the seed")
    if attempt.predicted:
        parts.append("predicted " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in attempt.predicted.items()))
    said = " ".join(attempt.hypothesis.split())
    why = f" -> {' '.join(outcome.reason.split())}" if outcome and outcome.reason else ""
    return f"{' | '.join(parts)} | {said}{why}"


def spelled(ratio: Interval) -> str:
    """`1.082x [1.071, 1.093]`."""
    return f"{ratio.estimate:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]"


def stored(view: View, attempt: Attempt) -> dict[str, Evaluation]:
    """The evaluations of an attempt by shape: its screening's, which has the peers too."""
    return {each.evaluation.shape: each.evaluation for each in view.evaluations(attempt.id, "screen")}


def scores(view: View, attempt: Attempt, shapes: Sequence[Shape], *, floor: float) -> list[str]:
    """A line per shape: what the attempt achieved there."""
    found = stored(view, attempt)
    lines = []
    for shape in shapes:
        if shape.id not in found:
            lines.append(f"{shape.id}: not evaluated")
            continue
        verdict = judge(found[shape.id], shape, floor=floor)
        if attempt.parent is None and verdict.is_good:
            # The seed is measured beside itself, for the noise: that says nothing about its speed.
            verdict = msgspec.structs.replace(verdict, kind="correct", baseline=None)
        lines.append(score_line(verdict) + bounds(found[shape.id], verdict))
    return lines


def bounds(evaluation: Evaluation, verdict: Verdict) -> str:
    """`, 0.41 of the roofline (least 120.3 us), the harness's own 45.1 us a call subtracted`, as far as they are known.

    What a correct kernel may still gain, and how much of a slice was none of its time.
    """
    timing = evaluation.timing
    if timing is None or not verdict.median_us or not verdict.is_good:
        return ""
    said = ""
    if timing.least_s:
        least_us = timing.least_s * 1e6
        said += f", {least_us / verdict.median_us:.2g} of the roofline (least {least_us:,.1f} us)"
    if timing.harness_s:
        said += f", the harness's own {timing.harness_s * 1e6:,.1f} us a call subtracted"
    return said


def score_line(verdict: Verdict, *, baseline: str = "its parent") -> str:
    """A verdict in one line, reasons included; `baseline` is what the kernel was timed beside."""
    parts = [f"{verdict.shape}: {verdict.kind}"]
    if verdict.median_us is not None:
        parts.append(f"{verdict.median_us:,.1f} us")
        parts.append(f"{verdict.tflops or 0:.4g} TFLOP/s, {verdict.gbps or 0:.4g} GB/s")
    if verdict.baseline is not None:
        low, high = verdict.baseline.ci95
        parts.append(
            f"{verdict.baseline.ratio:.3f}x [{low:.3f}, {high:.3f}] of {baseline}'s speed "
            f"({verdict.baseline.median_us:,.1f} us)"
        )
        if verdict.baseline.kinds_differ:
            kinds = verdict.baseline.kinds.items()
            parts.append("by kind of inputs " + ", ".join(f"{kind} {found.ratio:.3f}x" for kind, found in kinds))
    parts += [f"{peer.ratio:.3f}x of {name}'s speed ({peer.median_us:,.1f} us)" for name, peer in verdict.peers.items()]
    if verdict.reason and not verdict.is_good:
        parts.append(verdict.reason)
    return ", ".join(parts)
