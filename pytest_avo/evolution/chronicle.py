"""The history of a run, read from its lineage as plain values for pages and exports, also while it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation
from pytest_avo.core.ranking import paired
from pytest_avo.core.stats import Interval, interval, located
from pytest_avo.lineage.events import NoiseFloor, PredictionChecked, Profiled, Raced, SeedComparison, Spending
from pytest_avo.lineage.records import STAGES, Attempt, AttemptOutcome
from pytest_avo.lineage.view import View
from pytest_avo.operators.knowledge.versions import version_name
from pytest_avo.operators.model.transcript import recorded, run_folder, transcript_path
from pytest_avo.report.page.facts import UNDER_WAY, AttemptFacts, DraftFacts, LookFacts, RunFacts, ShapeFacts

EXCERPT = 1500
"""Characters of what a model said last that are shown of a transcript."""


class Chronicle:
    """A run's facts. What has ended never changes, so a chronicle that is asked again reads only what is new."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._begin = datetime.fromisoformat(view.run.started)
        self._ended: dict[int, AttemptFacts] = {}

    def state(self) -> tuple[int, int, int]:
        """What changes whenever the run has something new to tell."""
        events = self._view.all_events()
        return len(self._view.attempts()), len(self._view.outcomes()), events[-1].id if events else 0

    def facts(self) -> RunFacts:
        """The run as it is now."""
        view, run = self._view, self._view.run
        outcomes = view.outcomes()  # before the attempts: each outcome's attempt is known then
        attempts = {attempt.id: attempt for attempt in view.attempts()}
        for number, outcome in outcomes.items():
            if number not in self._ended:
                self._ended[number] = self._attempt(attempts[number], outcome)
        totals = view.events(SeedComparison)
        floors = view.events(NoiseFloor)
        best = totals[-1].fact if totals else None
        under_way = [self._attempt(each, None) for each in attempts.values() if each.id not in outcomes]
        return RunFacts(
            number=run.id,
            project=_project(view.path),
            kernel=run.kernel,
            operator=run.settings.get("operator", run.operator),
            started=run.started,
            shapes=run.shapes,
            attempts=(*self._completed(), *under_way),
            noise_floor=floors[-1].fact.floor if floors else None,
            machine={name: str(value) for name, value in msgspec.structs.asdict(run.fingerprint).items()},
            settings={"seed": str(run.seed), **run.settings},
            ledger=_ledger(view),
            over_seed=best.interval if best else None,
        )

    def _completed(self) -> list[AttemptFacts]:
        """What has ended, with what the run came to by then, its speed and what became of its prediction."""
        beside_seed = {x.fact.attempt: x.fact for x in self._view.events(SeedComparison)}
        judgements = {x.fact.attempt: x.fact.text for x in self._view.events(PredictionChecked)}
        scores = self._view.log_scores()
        seen = self._looked_into()
        names = {attempt.digest: version_name(attempt) for attempt in self._view.attempts()}
        ends = self._ends()
        spent = [(event.time, event.fact.evaluations) for event in self._view.events(Spending)]
        evaluations, cost, tokens = 0, 0.0, 0
        found = []
        for each in self._ended.values():
            evaluations, cost, tokens = evaluations + each.own_evaluations, cost + each.cost, tokens + each.tokens
            end = ends.get(each.id, each.created)
            drafts = max((made for time, made in spent if time <= end), default=0)
            total, score = beside_seed.get(each.id), scores.get(each.id)
            speed = None
            if total is not None:
                speed = total.interval
            elif score is not None:
                wide = each.gain or Interval(1.0, 1.0, 1.0)
                ratio = math.exp(score)
                speed = Interval(ratio, ratio * wide.low / wide.estimate, ratio * wide.high / wide.estimate)
            judgement = judgements.get(each.id, "")
            found.append(
                replace(
                    each,
                    speed=speed,
                    judgement=judgement,
                    looks=tuple(seen.get((each.generation, each.member), ())),
                    # Nothing but what was kept is the parent of drafts, which come after its end.
                    drafts=self._drafts(each.id, names) if each.is_kept else (),
                    evaluations=evaluations + drafts,
                    elapsed_s=(datetime.fromisoformat(end) - self._begin).total_seconds(),
                    total_cost=cost,
                    total_tokens=tokens,
                )
            )
        return found

    def _ends(self) -> dict[int, str]:
        """When attempts ended, as far as what is said of them at their end tells: a time in ISO 8601."""
        found = {event.fact.attempt: event.time for event in self._view.events(PredictionChecked)}
        promoted: dict[int, str] = {}
        for event in self._view.events(SeedComparison):
            if event.fact.attempt is not None:
                promoted.setdefault(event.fact.attempt, event.time)  # the best one's is told again at the end
        for attempt, time in promoted.items():
            found[attempt] = max(time, found.get(attempt, ""))
        return found

    def _looked_into(self) -> dict[tuple[int, int], list[LookFacts]]:
        """Profiles and races of each step, by generation and member."""
        looks: list[tuple[int, int, int, LookFacts]] = []
        for profiled in self._view.events(Profiled):
            seen = profiled.fact
            title = f"profile of draft {seen.digest[:6]} on {seen.shape}"
            looks.append((profiled.id, seen.generation, seen.member, LookFacts(title, seen.text)))
        for raced in self._view.events(Raced):
            race = raced.fact
            title = f"race of draft {race.digest[:6]} beside {race.against}"
            looks.append((raced.id, race.generation, race.member, LookFacts(title, race.text)))
        found: dict[tuple[int, int], list[LookFacts]] = {}
        for _, generation, member, look in sorted(looks, key=lambda each: each[0]):
            found.setdefault((generation, member), []).append(look)
        return found

    def _drafts(self, parent: int, names: Mapping[str, str]) -> tuple[DraftFacts, ...]:
        """The drafts that were evaluated against an attempt, in that order."""
        stored: dict[str, dict[str, Evaluation]] = {}
        for each in self._view.evaluations(parent, "draft"):
            stored.setdefault(each.digest, {})[each.evaluation.shape] = each.evaluation
        found = []
        for digest, evaluations in stored.items():
            timed = [each.timing for each in evaluations.values() if each.timing and BASELINE in each.timing.seconds]
            gains = [located(paired(timing, BASELINE)).estimate for timing in timed if not timing.too_few]
            reason = next((each.reason for each in evaluations.values() if each.outcome != "ok"), "")
            found.append(
                DraftFacts(
                    name=digest[:6],
                    outcomes=tuple(each.outcome for each in evaluations.values()),
                    timed=len(timed),
                    ratio=math.exp(sum(gains) / len(gains)) if gains else None,
                    reason=reason,
                    became=names.get(digest, ""),
                )
            )
        return tuple(found)

    def _attempt(self, attempt: Attempt, outcome: AttemptOutcome | None) -> AttemptFacts:
        stored = {purpose: self._view.evaluations(attempt.id, purpose) for purpose in STAGES}
        parent = None if attempt.parent is None else self._view.attempt(attempt.parent)
        known = {} if outcome is None else _known(outcome)
        return AttemptFacts(
            id=attempt.id,
            name=version_name(attempt),
            generation=attempt.generation,
            member=attempt.member,
            island=attempt.island,
            parent=attempt.parent,
            operator=attempt.operator,
            hypothesis=attempt.hypothesis,
            created=attempt.created,
            digest=attempt.digest,
            parent_digest=None if parent is None else parent.digest,
            source=self._view.source(attempt.digest),
            parent_source="" if parent is None else self._view.source(parent.digest),
            predictions=attempt.predicted,
            shapes=tuple(shape_facts(attempt, each.evaluation) for each in stored["screen"]),
            transcript=self._excerpt(attempt),
            own_evaluations=sum(map(len, stored.values())),
            elapsed_s=(datetime.fromisoformat(attempt.created) - self._begin).total_seconds(),
            **{"status": UNDER_WAY, **known},
        )

    def _excerpt(self, attempt: Attempt) -> str:
        """What the model said last in the attempt's step; "" where there is no transcript."""
        folder = run_folder(self._view.path.parent, self._view.run)
        path = transcript_path(folder, generation=attempt.generation, member=attempt.member)
        try:
            exchanges = recorded(path, "step")
        except InvalidInput as error:
            return str(error)
        messages = exchanges[-1].messages if exchanges else []
        said = [str(each["content"]) for each in messages if each.get("role") == "assistant" and each.get("content")]
        return "\n\n".join(said)[-EXCERPT:]


def shape_facts(attempt: Attempt, evaluation: Evaluation) -> ShapeFacts:
    """One evaluation, beside the parent where that was timed too."""
    timing, ratio, median_us = evaluation.timing, None, None
    if timing is not None:
        median_us = float(np.median(np.concatenate(timing.seconds[KERNEL]))) * 1e6
        if BASELINE in timing.seconds and attempt.parent is not None:
            ratio = interval(paired(timing, BASELINE)).exp()
    return ShapeFacts(
        shape=evaluation.shape,
        outcome=evaluation.outcome,
        reason=evaluation.reason,
        median_us=median_us,
        ratio=ratio,
        predicted=attempt.predicted.get(evaluation.shape),
    )


def _project(lineage: Path) -> str:
    """The name of the folder that a lineage's `.avo` stands in."""
    return lineage.absolute().parent.parent.name


def _known(outcome: AttemptOutcome) -> dict[str, Any]:
    """What is known of an attempt once it has ended."""
    gain = outcome.landing or outcome.confirmed or outcome.gain
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "lesson": outcome.lesson,
        "gain": None if gain is None else gain.exp(),
        "screened": None if outcome.gain is None else outcome.gain.exp(),
        "confirmed": None if outcome.confirmed is None else outcome.confirmed.exp(),
        "seconds": outcome.seconds,
        "cost": outcome.cost,
        "tokens_in": outcome.tokens_in,
        "tokens_out": outcome.tokens_out,
    }


def _ledger(view: View) -> dict[str, str]:
    """The last snapshot of what the run has spent, in words."""
    snapshots = view.events(Spending)
    if not snapshots:
        return {}
    last = snapshots[-1].fact
    return {
        "attempts": str(last.attempts),
        "turns of the model": str(last.turns),
        "input tokens": f"{last.tokens_in:,}",
        "output tokens": f"{last.tokens_out:,}",
        "cost": "no prices given" if last.cost is None else f"{last.cost:.4g}",
        "evaluations of drafts": str(last.evaluations),
        "evaluations of candidates": str(last.verifications),
        "evaluator": f"{last.evaluator_s:,.0f} s",
        "wall time": f"{last.wall_s:,.0f} s",
    }
