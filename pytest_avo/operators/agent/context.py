"""What a model is told when a step begins: the prompts filled with the lineage, each part within its share of tokens.

Everything that was not written by this package (sources, reasons, hypotheses, lessons) is fenced as data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_avo.lineage.records import Attempt, AttemptOutcome
from pytest_avo.operators.agent import supervisor
from pytest_avo.operators.agent.supervisor import Given
from pytest_avo.operators.agent.templates import render
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.knowledge.drafts import draft_line, drafts_of
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.model.chat import Message
from pytest_avo.operators.model.fence import Fence, bounded
from pytest_avo.operators.operator import Task

CHARS_PER_TOKEN = 3
INCUMBENT, SCORES, LINEAGE, REJECTED, LESSONS, DIRECTIONS, KNOWLEDGE = 0.30, 0.04, 0.05, 0.06, 0.05, 0.03, 0.03
DRAFTS = 0.04
"""Shares of the context: together about half, so that the step itself has the other."""
MAX_LESSONS = 12
DRAFT_PARENTS = 3
"""Versions whose drafts a supervisor sees."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the prompts for one step."""

    task: Task
    fence: Fence
    settings: AgentSettings
    knowledge: KnowledgeBase | None
    memory: LessonMemory | None

    def step(self, direction: Given | None) -> list[Message]:
        """System prompt and task."""
        answers = f"At most {self.settings.turns} answers in this step."
        return [self._system(), {"role": "user", "content": self._task(direction, answers)}]

    def oneshot(self, direction: Given | None) -> list[Message]:
        """System prompt and task for an answer that is the candidate itself."""
        text = f"{self._task(direction, 'One answer.', with_tools=False)}\n\n{render('oneshot', {})}"
        return [self._system(), {"role": "user", "content": text}]

    def review(self, symptom: str) -> list[Message]:
        """What the supervisor is asked."""
        values = {
            "symptom": symptom,
            "kernel": self._kernel,
            "target": self._target,
            "device": self.task.device,
            "fence": self.fence.mark,
            "scores": self._scores(),
            "incumbent": self._incumbent(),
            "lineage": self._lineage(),
            "rejected": self._rejected(),
            "drafts": self._drafts(),
            "lessons": self._lessons(symptom),
            "directions": self._listed(supervisor.ledger_lines(self.task.view), DIRECTIONS) or "None yet.",
            "count": str(self.settings.directions),
        }
        return [{"role": "user", "content": render("supervisor", values)}]

    @property
    def _kernel(self) -> str:
        return self.task.view.run.kernel

    @property
    def _target(self) -> str:
        return self.task.view.run.target

    def _system(self) -> Message:
        values = {"target": self._target, "device": self.task.device, "fence": self.fence.mark}
        return {"role": "system", "content": render("system", values)}

    def _task(self, direction: Given | None, answers: str, *, with_tools: bool = True) -> str:
        hint = "" if direction is None else str(direction.direction)
        return render(
            "task",
            {
                "attempt": str(self.task.generation),
                "kernel": self._kernel,
                "scores": self._scores(),
                "incumbent": self._incumbent(),
                "lineage": self._lineage(),
                "rejected": self._rejected(),
                "lessons": self._lessons(hint),
                "direction": self._direction(direction),
                "knowledge": self._knowledge() if with_tools else "None to look up in this run.",
                "budget": f"{answers} {self._budget()}".rstrip(),
            },
        )

    def _chars(self, share: float) -> int:
        return int(self.settings.context_tokens * share * CHARS_PER_TOKEN)

    def _listed(self, lines: Sequence[str], share: float) -> str:
        """Lines as data, as many from the first as fit; "" for none."""
        shown: list[str] = []
        room = self._chars(share)
        for line in lines:
            room -= len(line) + 1
            if room < 0 and shown:
                shown.append(f"... {len(lines) - len(shown)} more: list_versions and read_version have them")
                break
            shown.append(bounded(line, self._chars(share)))
        return self.fence.data("\n".join(shown)) if shown else ""

    def _scores(self) -> str:
        task = self.task
        listed = self._listed(versions.scores(task.view, task.parent, task.shapes, floor=task.floor), SCORES)
        return (
            f"{listed}\n\nSpeeds are ratios of times, above 1 the kernel is faster. What a candidate needs to be "
            f"promoted, as its geomean over all shapes against the incumbent: {task.rule}."
        )

    def _incumbent(self) -> str:
        source = self.task.view.source(self.task.parent.digest)
        name = versions.version_name(self.task.parent)
        shown = self.fence.data(bounded(source, self._chars(INCUMBENT)))
        return f"Version {name}, {len(source.splitlines())} lines.\n\n{shown}"

    def _finished(self) -> list[tuple[Attempt, AttemptOutcome]]:
        """Finished attempts but the seed, newest first."""
        outcomes = self.task.view.outcomes()
        found = [(attempt, outcomes[attempt.id]) for attempt in self.task.view.attempts() if attempt.id in outcomes]
        return [pair for pair in reversed(found) if pair[0].parent is not None]

    def _lineage(self) -> str:
        view = self.task.view
        scores = view.log_scores()
        promoted = [pair for pair in self._finished() if pair[1].status == "promoted"]
        counts = {str(status): number for status, number in view.counts().items() if status != "seed"}
        total = f"{sum(counts.values())} attempts, {counts.get('promoted', 0)} promoted"
        others = ", ".join(f"{number} {status}" for status, number in counts.items() if status != "promoted")
        head = f"{total}{f' ({others})' if others else ''}."
        if not promoted:
            return f"{head} The incumbent is the seed."
        lines = [versions.line(attempt, outcome, scores.get(attempt.id)) for attempt, outcome in promoted]
        best = " ".join(f"{math.exp(score):.2f}" for score in view.trend()[-40:])
        listed = self._listed(lines, LINEAGE)
        return f"{head} Promoted versions, newest first:\n\n{listed}\n\nBest so far, generation by generation: {best}"

    def _rejected(self) -> str:
        if self.memory is None:
            return "Not shown in this run."
        others = [pair for pair in self._finished() if pair[1].status != "promoted"]
        lines = [versions.line(attempt, outcome, None) for attempt, outcome in others]
        return self._listed(lines, REJECTED) or "None yet."

    def _drafts(self) -> str:
        """Drafts on the last parents that no attempt submitted, newest first."""
        view, task = self.task.view, self.task
        submitted = {attempt.digest for attempt in view.attempts()}
        parents = dict.fromkeys(attempt.parent for attempt, _ in self._finished() if attempt.parent is not None)
        parents[task.parent.id] = None
        lines = []
        for parent in sorted(parents, reverse=True)[:DRAFT_PARENTS]:
            seen = drafts_of(view, view.attempt(parent), task.shapes, floor=task.floor)
            lines += [draft_line(view, draft) for draft in reversed(seen) if draft.digest not in submitted]
        return self._listed(lines, DRAFTS) or "None."

    def _lessons(self, hint: str) -> str:
        if self.memory is None:
            return "This run keeps none, and has no tools to record or search them."
        recent = " ".join(f"{attempt.hypothesis} {outcome.reason}" for attempt, outcome in self._finished()[:3])
        recalled = self.memory.recall(f"{hint} {recent}", limit=3 * MAX_LESSONS)
        # The attempts above say what was predicted and measured.
        lessons = [lesson for lesson in recalled if not lesson.is_comparison][:MAX_LESSONS]
        return self._listed([" ".join(str(lesson).split()) for lesson in lessons], LESSONS) or "None yet."

    def _direction(self, direction: Given | None) -> str:
        wanted = f"The user wants this: {self.task.direction}" if self.task.direction else ""
        if direction is None:
            return wanted or "None: choose your own."
        start = start_of(self, direction)
        return (
            f"{wanted}\n\n".lstrip()
            + "The supervisor reviewed the search and suggests:\n\n"
            + self.fence.data(bounded(str(direction.direction), self._chars(DIRECTIONS)))
            + (f"\n\nYour working draft starts as {versions.version_name(start)} therefore." if start else "")
        )

    def _knowledge(self) -> str:
        if self.knowledge is None:
            return "There is no knowledge base in this run."
        lines = []
        for file in self.knowledge.files(target=self._target):
            titles = [heading.split(" / ")[-1] for heading in self.knowledge.headings(file)]
            lines.append(f"{file}: {'; '.join(titles[:12])}")
        listed = self.fence.data(bounded("\n".join(lines), self._chars(KNOWLEDGE)))
        return f"Documents and their headings; search_knowledge finds passages, read_knowledge reads them.\n\n{listed}"

    def _budget(self) -> str:
        limits, spent = self.task.ledger.limits, self.task.ledger.snapshot()
        parts = []
        if limits.max_tokens is not None:
            left = max(0, limits.max_tokens - spent.tokens_in - spent.tokens_out)
            parts.append(f"The run has {left:,} tokens left.")
        if (left_s := self.task.ledger.time_left_s()) is not None:
            parts.append(f"The run has {left_s / 60:.0f} minutes left.")
        if (evaluations := self.task.ledger.evaluations_left()) is not None:
            shapes = len(self.task.shapes)
            parts.append(
                f"The run has {evaluations:,} evaluations left, one for each shape that a draft or a candidate is "
                f"tried on; verifying the candidate of a step takes {shapes} to {2 * shapes} of them."
            )
        return " ".join(parts)


def start_of(context: Context, direction: Given) -> Attempt | None:
    """The version that a direction says to start from; None where it names none, or none that may be seen."""
    named = re.search(r"\b(seed|g\d{4}(?:\.\d+)?)\b", direction.direction.start_from)
    if named is None:
        return None
    try:
        found = versions.find_version(context.task.view, named[1], promoted_only=context.memory is None)
    except versions.UnknownVersion:
        return None
    return None if found.id == context.task.parent.id else found
