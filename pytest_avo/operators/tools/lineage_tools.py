"""Tools over the lineage and the knowledge base: what was tried, what came of it, what is known."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta

from pytest_avo.lineage.events import LessonLearnt, PredictionChecked
from pytest_avo.lineage.records import Attempt
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.operator import Task
from pytest_avo.operators.tools.edits import unified_diff
from pytest_avo.operators.tools.tools import LONGEST_SOURCE, Mistake, ToolArguments, ToolSpec

Version = Annotated[str, Meta(description="seed, incumbent, or a name as in g0007")]
LineNumber = Annotated[int, Meta(ge=0, description="0 for the whole text")]


class ListVersions(ToolArguments, frozen=True):
    """List attempts, newest first: how each ended, gain over its parent, hypothesis, reason."""

    last: Annotated[int, Meta(ge=1, le=500, description="how many, from the newest")] = 20
    only: Annotated[Literal["all", "promoted"], Meta(description="which attempts")] = "all"


class ReadVersion(ToolArguments, frozen=True):
    """Read one version: outcome, hypothesis, prediction and measurement, scores, source."""

    version: Version
    first_line: LineNumber = 0
    last_line: LineNumber = 0


class DiffVersions(ToolArguments, frozen=True):
    """Show the unified diff between any two versions."""

    after: Version
    before: Annotated[str, Meta(description="another version; empty for the parent of the first")] = ""


class ListKnowledge(ToolArguments, frozen=True):
    """List the documents of the knowledge base and their headings."""


class SearchKnowledge(ToolArguments, frozen=True):
    """Find passages of the knowledge base by words."""

    query: Annotated[str, Meta(min_length=1, description="words, as in a search engine")]
    limit: Annotated[int, Meta(ge=1, le=20)] = 5


class ReadKnowledge(ToolArguments, frozen=True):
    """Read a document of the knowledge base, or one heading of it."""

    file: str
    heading: Annotated[str, Meta(description="only what stands under it; empty for the whole document")] = ""


class RecordLesson(ToolArguments, frozen=True):
    """Keep something for later steps to know."""

    text: Annotated[str, Meta(min_length=10, max_length=800, description="what happened and why, in two sentences")]
    technique: Annotated[str, Meta(max_length=80, description="what was tried, in a few words")]
    symptom: Annotated[str, Meta(max_length=80, description="how it showed: an error, a slowdown, no effect")] = ""


class SearchLessons(ToolArguments, frozen=True):
    """Find what earlier steps learnt, about a technique or a symptom: lessons, and predictions beside measurements."""

    query: Annotated[str, Meta(min_length=1, description="words, as in a search engine")]
    limit: Annotated[int, Meta(ge=1, le=30)] = 8


class LineageTools:
    """Reads the run's attempts, and reads and writes its lessons."""

    def __init__(self, task: Task, memory: LessonMemory | None) -> None:
        self.task = task
        self.memory = memory
        self.lessons: list[str] = []
        """Recorded in this step."""

    def specs(self) -> list[ToolSpec[Any]]:
        """The tools; without memory only promoted versions can be read, and there are no lessons."""
        specs: list[ToolSpec[Any]] = [
            ToolSpec("list_versions", ListVersions, self.list_versions),
            ToolSpec("read_version", ReadVersion, self.read_version, LONGEST_SOURCE),
            ToolSpec("diff_versions", DiffVersions, self.diff_versions),
        ]
        if self.memory is not None:
            specs.append(ToolSpec("search_lessons", SearchLessons, partial(found_lessons, self.memory)))
            specs.append(ToolSpec("record_lesson", RecordLesson, self.record_lesson))
        return specs

    def list_versions(self, arguments: ListVersions) -> str:
        view = self.task.view
        outcomes, scores = view.outcomes(), view.log_scores()
        promoted_only = arguments.only == "promoted" or self.memory is None
        chosen = versions.visible(view, promoted_only=promoted_only)[::-1]
        lines = [
            versions.line(attempt, outcomes.get(attempt.id), scores.get(attempt.id))
            for attempt in chosen[: arguments.last]
        ]
        if len(chosen) > arguments.last:
            lines.append(f"... {len(chosen) - arguments.last} older ones")
        return "\n".join(lines)

    def read_version(self, arguments: ReadVersion) -> str:
        view, attempt = self.task.view, self._find(arguments.version)
        parts = [versions.line(attempt, view.outcome(attempt.id), view.log_scores().get(attempt.id))]
        parts += [event.fact.text for event in view.events(PredictionChecked) if event.fact.attempt == attempt.id]
        parts += versions.scores(view, attempt, self.task.shapes, floor=self.task.floor)
        source = view.source(attempt.digest)
        return "\n".join([*parts, "", numbered(source, arguments.first_line, arguments.last_line)])

    def diff_versions(self, arguments: DiffVersions) -> str:
        view = self.task.view
        after = self._find(arguments.after)
        if arguments.before:
            before = self._find(arguments.before)
        elif after.parent is not None:
            before = view.attempt(after.parent)
        else:
            raise Mistake(f"{arguments.after} has no parent")
        names = {"before_name": arguments.before or versions.version_name(before), "after_name": arguments.after}
        return unified_diff(view.source(before.digest), view.source(after.digest), **names) or "they are the same text"

    def record_lesson(self, arguments: RecordLesson) -> str:
        task = self.task
        lesson = LessonLearnt(
            arguments.text, arguments.technique, arguments.symptom, generation=task.generation, member=task.member
        )
        self.lessons.append(arguments.text)
        # A step that is gone through again after an interruption has recorded it already.
        if all(event.fact != lesson for event in task.view.events(LessonLearnt)):
            task.record(lesson)
            task.say(f"  lesson: {' '.join(arguments.text.split())}")
        return "recorded"

    def _find(self, name: str) -> Attempt:
        return versions.find_version(self.task.view, name, promoted_only=self.memory is None)


def found_lessons(memory: LessonMemory, arguments: SearchLessons) -> str:
    """What was learnt, the most fitting first."""
    lessons = memory.search(arguments.query, limit=arguments.limit)
    return "\n".join(f"- {' '.join(str(lesson).split())}" for lesson in lessons) or "nothing was learnt about that yet"


def knowledge_specs(knowledge: KnowledgeBase) -> list[ToolSpec[Any]]:
    """The tools of the knowledge base."""

    def listed(_: ListKnowledge) -> str:
        return "\n".join(f"{file}: {'; '.join(knowledge.headings(file))}" for file in knowledge.files())

    def found(arguments: SearchKnowledge) -> str:
        passages = knowledge.search(arguments.query, arguments.limit)
        texts = [f"## {each.file}: {each.heading}\n{each.text}" for each in passages]
        return "\n\n".join(texts) or "nothing found: try other words, or list_knowledge"

    def read(arguments: ReadKnowledge) -> str:
        return knowledge.read(arguments.file, arguments.heading or None)

    return [
        ToolSpec("list_knowledge", ListKnowledge, listed),
        ToolSpec("search_knowledge", SearchKnowledge, found),
        ToolSpec("read_knowledge", ReadKnowledge, read, LONGEST_SOURCE),
    ]


def numbered(source: str, first: int, last: int) -> str:
    """Lines of a source, as they are; with a head line where not all of them are wanted."""
    lines = source.splitlines()
    if not first and not last:
        return source
    start, stop = max(1, first), min(len(lines), last or len(lines))
    if start > stop:
        raise Mistake(f"lines {first} to {last}: expected a stretch within lines 1 to {len(lines)}")
    return f"lines {start} to {stop} of {len(lines)}:\n" + "\n".join(lines[start - 1 : stop])
