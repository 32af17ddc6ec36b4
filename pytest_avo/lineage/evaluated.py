"""What a run has had evaluated, as its lineage has it: nothing is asked for twice, and all of it was paid for."""

from __future__ import annotations

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.source import source_digest
from pytest_avo.lineage.events import Raced, Spending
from pytest_avo.lineage.records import STAGES, Attempt, Purpose
from pytest_avo.lineage.view import View

DRAFT: Purpose = "draft"


class Evaluated:
    """The evaluations of one run, read anew on every call."""

    def __init__(self, view: View) -> None:
        self._view = view

    def of(self, attempt: Attempt, purpose: Purpose) -> dict[str, Evaluation]:
        """Evaluations of an attempt that are in the lineage already, by shape; all shapes or none."""
        return {x.evaluation.shape: x.evaluation for x in self._view.evaluations(attempt.id, purpose)}

    def draft(self, parent: Attempt, source: str, *, timed: bool) -> dict[str, Evaluation]:
        """What the lineage has of a draft on `parent`, by shape: what fails, or was asked as now, `timed` or not."""
        stored = self._view.evaluations(parent.id, DRAFT, digest=source_digest(source))
        return {x.evaluation.shape: x.evaluation for x in stored if x.evaluation.settles(timed=timed)}

    def spending(self) -> Spending | None:
        """What the run had spent when it was interrupted; None where it begins."""
        snapshots = self._view.events(Spending)
        if not snapshots:
            return None
        # A kill may have come after an evaluation and before its snapshot. An attempt that was interrupted before it
        # was recorded is begun, and counted, once more.
        attempts = self._view.attempts()
        drafts = [x for each in attempts for x in self._view.evaluations(each.id, DRAFT)]
        tried = [x for each in attempts for purpose in STAGES for x in self._view.evaluations(each.id, purpose)]
        races = [event.fact for event in self._view.events(Raced)]
        return msgspec.structs.replace(
            snapshots[-1].fact,
            attempts=len(attempts) - 1,
            evaluations=len(drafts) + sum(race.evaluations for race in races),
            verifications=sum(x.attempt != attempts[0].id for x in tried),
            evaluator_s=sum(x.evaluation.seconds for x in [*drafts, *tried]) + sum(race.seconds for race in races),
        )
