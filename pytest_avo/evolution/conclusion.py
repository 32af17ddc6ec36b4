"""The conclusion of an evolution: its best kernel, attempts and totals, for the tables at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from pytest_avo.core.evaluation import Evaluation, Evaluations
from pytest_avo.core.ranking import geomean_gain
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict, judge, judge_alone
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.settlement import TOTAL_CONFIDENCE
from pytest_avo.evolution.trials import Trials
from pytest_avo.lineage.evaluated import DRAFT
from pytest_avo.lineage.events import SeedComparison
from pytest_avo.lineage.records import STAGES, Attempt
from pytest_avo.lineage.view import View
from pytest_avo.report import text
from pytest_avo.report.rows import ResultRow, result_row
from pytest_avo.report.terminal.lineage import AttemptRow, Summary

CONFIDENCE = 0.95
"""That a kernel passed a peer."""


def attempt_rows(campaign: Campaign) -> list[AttemptRow]:
    """The attempts for the table at the end."""
    view = campaign.view
    outcomes, trend = view.outcomes(), view.trend()
    rows = []
    for attempt in view.attempts():
        outcome = outcomes.get(attempt.id)
        if outcome is None:
            continue
        stored = [x for purpose in STAGES for x in view.evaluations(attempt.id, purpose)]
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
        for purpose in (*STAGES, DRAFT)
        for x in view.evaluations(attempt.id, purpose)
    ]
    incumbent = campaign.incumbent.id
    totals = [event.fact for event in view.events(SeedComparison) if event.fact.attempt in (None, incumbent)]
    best = totals[-1] if totals else None
    return Summary(
        kernel=campaign.plan.name,
        attempts=sum(counts.values()) + commits,
        commits=commits,
        rejected={str(status): number for status, number in counts.items()},
        best_ratio=None if best is None else best.interval,
        by_steps=best is not None and best.by_steps,
        wall_s=wall_s,
        build_s=sum(x.build_s for x in evaluations),
        check_s=sum(x.check_s for x in evaluations),
        time_s=sum(x.time_s for x in evaluations),
        waited_s=sum(x.waited_s for x in evaluations),
        evaluations=len(evaluations),
        of_seed=sum(len(view.evaluations(view.attempts()[0].id, purpose)) for purpose in STAGES),
        resume_hint=resume_hint,
        passed=tuple(_passed(campaign)),
    )


def _passed(campaign: Campaign) -> Iterator[str]:
    """`cudnn after 3 attempts and 4 min 10 s`, for each peer that candidates are timed beside."""
    plan, run = campaign.plan, campaign.run
    for each in passings(campaign.view, plan.shapes, started=run.started, peers=plan.screened_beside):
        if each.attempts is None:
            yield f"{each.peer} not yet"
        elif each.attempts == 0:
            yield f"{each.peer} with the seed"
        else:
            yield f"{each.peer} after {text.counted(each.attempts, 'attempt')} and {text.duration(each.wall_s)}"


def final_rows(campaign: Campaign, trials: Trials, *, say: Callable[[str], None]) -> list[ResultRow]:
    """The rows of the best kernel; none where that is the seed.

    It is measured beside the seed, and the peers, unless that was done: where the seed is its parent its confirmation
    has done so, and a question has one answer.
    """
    seed, best = campaign.view.attempts()[0], campaign.incumbent
    if best.id == seed.id:
        return []
    confirmed, total = campaign.evaluated.of(best, "confirm"), campaign.total(best)
    known: Evaluations = confirmed if best.parent == seed.id else {}
    if total is None or total.by_steps:
        say("timing the best kernel beside the seed and its peers")
        known = measured = trials.compare(campaign.kernel(best), campaign.kernel(seed))
        _add_total(campaign, best, measured)
    elif campaign.plan.peers:
        say("timing the best kernel beside its peers")
        measured = trials.beside_peers(campaign.kernel(best))
    else:
        measured = confirmed
    return [_row(campaign, shape, measured[shape.id], known.get(shape.id)) for shape in campaign.plan.shapes]


def _add_total(campaign: Campaign, best: Attempt, beside_seed: Evaluations) -> None:
    """Record what the comparison came to, if it came to something: the rows say what is missing."""
    timings = [each.timing for each in beside_seed.values()]
    if all(timing is not None and not timing.too_few for timing in timings):
        campaign.add_total(best, geomean_gain(beside_seed, campaign.plan.shapes, confidence=TOTAL_CONFIDENCE).exp())


def _row(campaign: Campaign, shape: Shape, measured: Evaluation, beside_seed: Evaluation | None) -> ResultRow:
    verdict = judge_alone(measured, shape)
    if verdict.is_good and beside_seed is not None:
        verdict = _as_promoted(verdict, judge(beside_seed, shape, floor=campaign.floor))
    return result_row(
        measured,
        verdict,
        node_id=f"{campaign.plan.name}::{shape.id}",
        kernel=campaign.plan.name,
        target=campaign.plan.target,
        shape=shape,
    )


def _as_promoted(measured: Verdict, promoted: Verdict) -> Verdict:
    return msgspec.structs.replace(
        measured, kind=promoted.kind, reason=promoted.reason, baseline=promoted.baseline, notes=promoted.notes
    )


@dataclass(frozen=True, slots=True)
class Passing:
    """When the kernel in the file became faster than a peer, in geomean over the shapes that are screened."""

    peer: str
    attempts: int | None
    """Candidates that were settled by then; 0: the seed was faster already; None: none is."""
    wall_s: float
    """Seconds since the start of the run, pauses included."""


def passings(view: View, shapes: Sequence[Shape], *, started: str, peers: Sequence[str]) -> list[Passing]:
    """Since when the kernel in the file is faster than each peer beyond doubt.

    Counted are attempts that became the kernel in the file, as they were screened beside the peers.
    """
    outcomes = view.outcomes()
    found: dict[str, Passing] = {}
    for settled, attempt in enumerate(x for x in view.attempts() if x.id in outcomes):
        outcome = outcomes[attempt.id]
        if outcome.status not in ("seed", "promoted"):
            continue
        screened = {x.evaluation.shape: x.evaluation for x in view.evaluations(attempt.id, "screen")}
        for peer in peers:
            if peer not in found and _is_faster(screened, shapes, peer):
                found[peer] = Passing(peer, settled, _age_s(attempt, started) + outcome.seconds if settled else 0.0)
    return [found.get(peer, Passing(peer, None, 0.0)) for peer in peers]


def _is_faster(screened: Evaluations, shapes: Sequence[Shape], peer: str) -> bool:
    timings = {
        shape: each.timing
        for shape, each in screened.items()
        if each.timing is not None and peer in each.timing.seconds
    }
    if not timings or any(timing.too_few for timing in timings.values()):
        return False
    timed = [shape for shape in shapes if shape.id in timings]
    return geomean_gain(screened, timed, confidence=CONFIDENCE, over=peer).low > 0


def _age_s(attempt: Attempt, started: str) -> float:
    return (datetime.fromisoformat(attempt.created) - datetime.fromisoformat(started)).total_seconds()
