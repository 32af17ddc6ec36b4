"""What earlier attempts taught: lessons found by words, and programs recognised under another text."""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass, replace

from pytest_avo.lineage import view as lineage_view
from pytest_avo.lineage.events import Fact, LessonLearnt, PredictionChecked
from pytest_avo.lineage.records import Run
from pytest_avo.lineage.view import View
from pytest_avo.operators.knowledge.programs import Programs
from pytest_avo.operators.knowledge.versions import spelled, version_name

LONGEST_QUERY = 60
RUNS_READ = 20
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{2,}")


@dataclass(frozen=True, slots=True)
class Lesson:
    """One thing learnt, and where."""

    text: str
    technique: str
    symptom: str
    origin: str
    run: int = 0
    step: tuple[int, int] | None = None
    """Generation and member of the step that wrote it, before its verdict; None for a comparison, written after."""
    ended: str = ""
    """What became of that step's candidate, where that is known."""

    @property
    def is_comparison(self) -> bool:
        """Whether it is a prediction beside what was measured, which the list of attempts says too."""
        return self.step is None

    def __str__(self) -> str:
        about = ", ".join(part for part in (self.technique, self.symptom) if part)
        ended = f" [its step ended {self.ended}]" if self.ended else ""
        return f"{self.origin}{f' ({about})' if about else ''}: {self.text}{ended}"


class LessonMemory:
    """The lessons of a run and of earlier runs on the same target. Safe to use from several threads."""

    def __init__(self, view: View, *, replayed: int | None = None) -> None:
        """A replay knows what the run that it repeats knew: `replayed` is that run's number."""
        self._view = view
        self._lock = threading.Lock()
        self._lessons: list[Lesson] = []
        self._texts: set[str] = set()
        self._last = 0
        self.programs = Programs(view)
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE lesson USING fts5(technique, symptom, text, near UNINDEXED)")
        first = view.run.id if replayed is None else replayed
        runs = [run for run in lineage_view.runs(view.path) if run.id < first and run.target == view.run.target]
        for run in runs[-RUNS_READ:]:
            with View(view.path, run.id) as other:
                for event in other.events(LessonLearnt):
                    step = event.fact.generation, event.fact.member
                    self._add(event.fact, run, _ended(other, step))

    def recall(self, query: str, *, limit: int) -> list[Lesson]:
        """The lessons that fit a query best, those of this kernel before others; filled up with the newest."""
        with self._lock:
            chosen = self._matching(query, limit)
            chosen += [index for index in reversed(range(len(self._lessons))) if index not in chosen]
            return [self._amended(self._lessons[index]) for index in chosen[:limit]]

    def search(self, query: str, *, limit: int) -> list[Lesson]:
        """The lessons that have words of a query, and no others, in the same order."""
        with self._lock:
            return [self._amended(self._lessons[index]) for index in self._matching(query, limit)]

    def _amended(self, lesson: Lesson) -> Lesson:
        """The lesson with the verdict on its attempt, which its author did not know yet."""
        if lesson.run != self._view.run.id or lesson.step is None:
            return lesson
        return replace(lesson, ended=_ended(self._view, lesson.step))

    def _matching(self, query: str, limit: int) -> list[int]:
        self._read_new()
        words = list(dict.fromkeys(word.lower() for word in _WORD.findall(query)))[:LONGEST_QUERY]
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        statement = "SELECT rowid FROM lesson WHERE lesson MATCH ? ORDER BY near DESC, bm25(lesson, 4, 4, 1) LIMIT ?"
        return [int(row[0]) - 1 for row in self._index.execute(statement, (match, limit))]

    def _read_new(self) -> None:
        for event in self._view.events(LessonLearnt, PredictionChecked, after=self._last):
            self._last = event.id
            self._add(event.fact, self._view.run)

    def _add(self, fact: Fact, run: Run, ended: str = "") -> None:
        if isinstance(fact, PredictionChecked):
            attempt = self._view.attempt(fact.attempt)
            origin = version_name(attempt)
            lesson = Lesson(f"{attempt.hypothesis}: {fact.text}", "", "prediction", origin)
        else:
            assert isinstance(fact, LessonLearnt)
            where = f"g{fact.generation:04d}"
            origin = where if run.id == self._view.run.id else f"run {run.id} of {run.kernel}, {where}"
            step = fact.generation, fact.member
            lesson = Lesson(fact.text, fact.technique, fact.symptom, origin, run.id, step, ended)
        if lesson.text in self._texts:
            return  # a replay records the lessons of its run once more
        self._texts.add(lesson.text)
        self._lessons.append(lesson)
        near = run.kernel == self._view.run.kernel
        self._index.execute(
            "INSERT INTO lesson (rowid, technique, symptom, text, near) VALUES (?, ?, ?, ?, ?)",
            (len(self._lessons), lesson.technique, lesson.symptom, lesson.text, int(near)),
        )


def _ended(view: View, step: tuple[int, int]) -> str:
    """How the attempt of a step ended: its status, and its gain where that was measured; "" while it is open."""
    outcomes = view.outcomes()
    for attempt in view.attempts():
        if (attempt.generation, attempt.member) == step and (outcome := outcomes.get(attempt.id)):
            gain = outcome.confirmed or outcome.gain
            return outcome.status + (f", {spelled(gain.exp())} over its parent" if gain else "")
    return ""
