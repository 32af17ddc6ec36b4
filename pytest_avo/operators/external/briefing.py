"""The texts in a member's folder: the task of the step, its history, and how to work."""

from __future__ import annotations

import string
from importlib import resources

from pytest_avo.lineage.events import PredictionChecked
from pytest_avo.lineage.records import GEOMEAN
from pytest_avo.operators.external.wire import SPENT
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.operator import Task
from pytest_avo.report.text import duration

CONTRACT = "## The contract"
"""The heading in AGENTS.md from which on nothing is about the folder."""


def task_text(task: Task, *, python: str) -> str:
    """TASK.md: what this step is to vary, by which rule, in which direction, with which budget."""
    claim = task.kernel.claim
    parent = versions.version_name(task.parent)
    predicted = f"`--predict {GEOMEAN}=1.05`, or `--predict SHAPE=1.05`"
    return f"""# Generation {task.generation}, member {task.member}: vary {task.view.run.kernel}

`draft.py` is your kernel; it begins as `lineage/{parent}.py`, the parent. Change it, and end the step with
`avo submit -m "what limits it and what you changed" --predict 1.05`. An edit that was made after the last submission
is kept: `cp lineage/{parent}.py draft.py` starts over from the parent.

- Claim: {claim or "none"}. It must stay.
- Device that measures: {task.device}. It is reached through `avo` alone.
- Promotion: correct on every shape with fresh inputs, and as its geomean over all shapes against the parent,
  {task.rule}; measured once more in fresh processes. Differences below {task.floor:.2%} are noise.
- Prediction: ratio of the parent's time to the draft's, above 1 is faster: {predicted}.
  It is compared with what is measured, and what was wrong about it is kept for later steps.
- The command is `avo`; where that is not found, `../bin/avo`.
- Python with torch{"" if task.view.run.target == "cpu" else " and triton"}, as the judge runs it: `{python}`

## Direction

{task.direction or "None: choose your own. HISTORY.md says what was tried."}

## Shapes, with what the parent measured

{_listed(versions.scores(task.view, task.parent, task.shapes, floor=task.floor))}

Speeds are ratios of times: above 1 the kernel is faster.

## Budget

{_budget(task)}
"""


def history_text(task: Task, *, with_memory: bool) -> str:
    """HISTORY.md: every attempt, newest first: how it ended, what was predicted and measured, and why."""
    view = task.view
    outcomes, scores = view.outcomes(), view.log_scores()
    said = {event.fact.attempt: event.fact.text for event in view.events(PredictionChecked)}
    lines = ["# Attempts, newest first", "", "Sources and diffs are in lineage/, `avo show NAME` has the figures.", ""]
    for attempt in reversed(versions.visible(view, promoted_only=not with_memory)):
        lines.append(f"- {versions.line(attempt, outcomes.get(attempt.id), scores.get(attempt.id))}")
        if attempt.id in said:
            lines.append(f"  - {said[attempt.id]}")
        if (outcome := outcomes.get(attempt.id)) and outcome.lesson:
            lines.append(f"  - noted: {' '.join(outcome.lesson.split())}")
    return "\n".join(lines) + "\n"


def agents_text(task: Task) -> str:
    """AGENTS.md: how to work, the contract, and what counts as cheating."""
    text = resources.files(__package__).joinpath("prompts", "AGENTS.md").read_text(encoding="utf-8")
    shape = task.shapes[0].id
    return string.Template(text).substitute(shape=shape, spent=str(SPENT), kernel=task.view.run.kernel)


def contract_text(task: Task) -> str:
    """The contract, and what counts as cheating, out of AGENTS.md: for who sees no files."""
    text = agents_text(task)
    return text[text.index(CONTRACT) :]


def _budget(task: Task) -> str:
    lines = []
    if (left := task.ledger.evaluations_left()) is not None:
        lines.append(
            f"{left} evaluations are left in this run, one for each shape that a draft or candidate is tried on."
        )
    if (left_s := task.ledger.time_left_s()) is not None:
        lines.append(f"The run ends in {duration(left_s)}.")
    return _listed(lines) if lines else "No limit but the time of the step: `avo status` says what is left."


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
