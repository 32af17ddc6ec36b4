"""An evolution as `--avo-json` has it: run, attempts and totals as plain values."""

from __future__ import annotations

from typing import Any

import msgspec

from pytest_avo.core.stats import Interval
from pytest_avo.lineage.records import Run
from pytest_avo.report.page.facts import UNDER_WAY, AttemptFacts, RunFacts
from pytest_avo.report.terminal.lineage import Summary


def json_result(facts: RunFacts, run: Run, total: Summary) -> dict[str, Any]:
    """Plain values; ratios are time of the other / time of the kernel, intervals [estimate, low, high]."""
    attempts = sorted(facts.attempts, key=lambda each: each.id)
    return {
        "run": msgspec.to_builtins(run),
        "attempts": [_attempt(each) for each in attempts],
        "totals": {
            "attempts": total.attempts,
            "promoted": total.commits,
            "not_promoted": total.rejected,
            "best_over_seed": _ends(total.best_ratio),
            "evaluations": total.evaluations,
            "wall_s": total.wall_s,
            "build_s": total.build_s,
            "check_s": total.check_s,
            "time_s": total.time_s,
            "waited_s": total.waited_s,
            "tokens_in": sum(each.tokens_in for each in attempts),
            "tokens_out": sum(each.tokens_out for each in attempts),
            "cost": sum(each.cost for each in attempts),
        },
    }


def _attempt(facts: AttemptFacts) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": facts.name,
        "generation": facts.generation,
        "member": facts.member,
        "digest": facts.digest,
        "parent": facts.parent_digest,
        "operator": facts.operator,
        "hypothesis": facts.hypothesis,
        "predicted": dict(facts.predictions),
        "status": facts.status,
        "over_seed": None if facts.speed is None else facts.speed.estimate,
    }
    if facts.status != UNDER_WAY:
        found |= {
            "reason": facts.reason,
            "screened": _ends(facts.screened),
            "measured": _ends(facts.confirmed),
            "lesson": facts.lesson,
            "tokens_in": facts.tokens_in,
            "tokens_out": facts.tokens_out,
            "cost": facts.cost,
            "seconds": facts.seconds,
        }
    return found


def _ends(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.estimate, found.low, found.high]
