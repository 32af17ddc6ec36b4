"""What an evolution came to: its attempts and totals, for the tables at its end."""

from __future__ import annotations

import math

from pytest_avo.core.stats import Interval
from pytest_avo.evolution.campaign import DRAFT, PURPOSES, Campaign
from pytest_avo.lineage.events import SeedComparison
from pytest_avo.report.terminal.lineage import AttemptRow, Summary


def attempt_rows(campaign: Campaign) -> list[AttemptRow]:
    """The attempts for the table at the end."""
    view = campaign.view
    outcomes, trend = view.outcomes(), view.trend()
    rows = []
    for attempt in view.attempts():
        outcome = outcomes.get(attempt.id)
        if outcome is None:
            continue
        stored = [x for purpose in PURPOSES for x in view.evaluations(attempt.id, purpose)]
        rows.append(
            AttemptRow(
                generation=attempt.generation,
                member=attempt.member,
                status=outcome.status,
                hypothesis=attempt.hypothesis,
                gain=outcome.gain,
                confirmed=outcome.confirmed,
                score=math.exp(trend[attempt.generation]) if attempt.generation < len(trend) else 1.0,
                seconds=outcome.seconds,
                evaluations=len(stored),
            )
        )
    return rows


def summary(campaign: Campaign, *, wall_s: float, resume_hint: str) -> Summary:
    """The totals for the end; `resume_hint` is the command that continues the run, "" for a complete one."""
    view = campaign.view
    counts = dict(view.counts())
    counts.pop("seed", None)
    commits = counts.pop("promoted", 0)
    evaluations = [
        x.evaluation
        for attempt in view.attempts()
        for purpose in (*PURPOSES, DRAFT)
        for x in view.evaluations(attempt.id, purpose)
    ]
    incumbent = campaign.incumbent.id
    totals = [event.fact for event in view.events(SeedComparison) if event.fact.attempt in (None, incumbent)]
    best = Interval(totals[-1].ratio, totals[-1].low, totals[-1].high) if totals else None
    return Summary(
        kernel=campaign.plan.name,
        attempts=sum(counts.values()) + commits,
        commits=commits,
        rejected={str(status): number for status, number in counts.items()},
        best_ratio=best,
        wall_s=wall_s,
        build_s=sum(x.build_s for x in evaluations),
        check_s=sum(x.check_s for x in evaluations),
        time_s=sum(x.time_s for x in evaluations),
        waited_s=sum(x.waited_s for x in evaluations),
        evaluations=len(evaluations),
        of_seed=sum(len(view.evaluations(view.attempts()[0].id, purpose)) for purpose in PURPOSES),
        resume_hint=resume_hint,
    )
