"""Drafts that were evaluated on the way to candidates: what a reader of submissions does not see."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_avo.core.evaluation import BASELINE, Evaluation
from pytest_avo.core.ranking import ONE_SIDED_99, geomean_gain
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import Verdict, judge
from pytest_avo.lineage.records import Attempt
from pytest_avo.lineage.view import View
from pytest_avo.operators.knowledge.versions import spelled, version_name


@dataclass(frozen=True, slots=True)
class SeenDraft:
    """One draft made on a parent: verdicts by shape id, and its geomean over all shapes where they allow one."""

    parent: Attempt
    digest: str
    verdicts: dict[str, Verdict]
    gain: Interval | None
    """A ratio, with one-sided 99% bounds."""


def drafts_of(view: View, parent: Attempt, shapes: Sequence[Shape], *, floor: float) -> list[SeenDraft]:
    """The drafts that were evaluated against a parent, in that order; the last evaluation of a shape counts."""
    known = {shape.id: shape for shape in shapes}
    found: dict[str, dict[str, Evaluation]] = {}
    for stored in view.evaluations(parent.id, "draft"):
        if stored.evaluation.shape in known:
            found.setdefault(stored.digest, {})[stored.evaluation.shape] = stored.evaluation
    return [
        SeenDraft(
            parent,
            digest,
            {shape: judge(each, known[shape], floor=floor) for shape, each in evaluations.items()},
            _gain(evaluations, shapes),
        )
        for digest, evaluations in found.items()
    ]


def _gain(evaluations: dict[str, Evaluation], shapes: Sequence[Shape]) -> Interval | None:
    for shape in shapes:
        timing = evaluations[shape.id].timing if shape.id in evaluations else None
        if timing is None or timing.too_few or BASELINE not in timing.seconds or evaluations[shape.id].outcome != "ok":
            return None
    return geomean_gain(evaluations, shapes, confidence=ONE_SIDED_99).exp()


def draft_line(view: View, draft: SeenDraft) -> str:
    """Parent, size of the change, verdicts, gain, and why it failed where it did, in one line."""
    before, after = (view.source(digest).splitlines() for digest in (draft.parent.digest, draft.digest))
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    kinds = [verdict.kind for verdict in draft.verdicts.values()]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    parts = [f"draft {draft.digest[:6]} on {version_name(draft.parent)}", f"+{added} -{removed} lines", counted]
    if draft.gain:
        parts.append(f"{spelled(draft.gain)} over its parent")
    first = next((line[1:].strip() for line in lines if line.startswith("+") and line[1:].strip()), "")
    parts.append(f"begins {first[:80]!r}" if first else "")
    bad = next((verdict.reason for verdict in draft.verdicts.values() if not verdict.is_good), "")
    return " | ".join(part for part in parts if part) + (f" -> {' '.join(bad.split())}" if bad else "")
