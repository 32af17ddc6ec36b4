"""An evolution as files of results have it: the run, its attempts, and what they come to."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pytest_avo.core.stats import Interval
from pytest_avo.evolution.balance import summary
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.lineage.records import Attempt, AttemptOutcome


def account(campaign: Campaign, *, wall_s: float) -> dict[str, Any]:
    """Plain values; ratios are time of the other / time of the kernel, intervals [estimate, low, high]."""
    view, total = campaign.view, summary(campaign, wall_s=wall_s, resume_hint="")
    outcomes, scores = view.outcomes(), view.log_scores()
    attempts = [
        _attempt(campaign, attempt, outcomes.get(attempt.id), scores.get(attempt.id)) for attempt in view.attempts()
    ]
    return {
        "run": msgspec.to_builtins(view.run),
        "attempts": attempts,
        "totals": {
            "attempts": total.attempts,
            "promoted": total.commits,
            "not_promoted": total.rejected,
            "best_over_seed": _ratio(total.best_ratio),
            "evaluations": total.evaluations,
            "wall_s": total.wall_s,
            "build_s": total.build_s,
            "check_s": total.check_s,
            "time_s": total.time_s,
            "waited_s": total.waited_s,
            "tokens_in": sum(outcome.tokens_in for outcome in outcomes.values()),
            "tokens_out": sum(outcome.tokens_out for outcome in outcomes.values()),
            "cost": sum(outcome.cost for outcome in outcomes.values()),
        },
    }


def _attempt(
    campaign: Campaign, attempt: Attempt, outcome: AttemptOutcome | None, score: float | None
) -> dict[str, Any]:
    parent = None if attempt.parent is None else campaign.view.attempt(attempt.parent)
    found: dict[str, Any] = {
        "name": campaign.label(attempt),
        "generation": attempt.generation,
        "member": attempt.member,
        "digest": attempt.digest,
        "parent": None if parent is None else parent.digest,
        "operator": attempt.operator,
        "hypothesis": attempt.hypothesis,
        "predicted": attempt.predicted,
        "status": outcome.status if outcome else "under way",
        "over_seed": None if score is None else math.exp(score),
    }
    if outcome is not None:
        found |= {
            "reason": outcome.reason,
            "screened": _of_log(outcome.gain),
            "measured": _of_log(outcome.confirmed),
            "lesson": outcome.lesson,
            "tokens_in": outcome.tokens_in,
            "tokens_out": outcome.tokens_out,
            "cost": outcome.cost,
            "seconds": outcome.seconds,
        }
    return found


def _of_log(gain: Interval | None) -> list[float] | None:
    return None if gain is None else _ratio(gain.exp())


def _ratio(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.estimate, found.low, found.high]
