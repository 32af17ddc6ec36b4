"""The reading side of a lineage: queries of one run, while it is being written."""

from __future__ import annotations

import math
import threading
from itertools import accumulate, islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.database import Reader, Row, UnreadableLineage
from pytest_avo.lineage.events import Event, Fact, SeedComparison, kind_of
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Purpose, Run, Status, StoredEvaluation
from pytest_avo.lineage.rows import attempt_of, evaluation_of, event_of, outcome_of, run_of

ATTEMPT = (
    "SELECT a.id, a.run, generation, member, island, parent, digest, operator, hypothesis, predicted, created"
    " FROM attempt a"
)
OUTCOME = (
    "SELECT id, attempt, status, reason, gain, gain_low, gain_high, confirmed, confirmed_low, confirmed_high,"
    " over, landing, landing_low, landing_high, lesson, tokens_in, tokens_out, cost, seconds FROM outcome"
)
RUN = "SELECT id, kernel, target, operator, seed, shapes, fingerprint, started, settings FROM run"
EVALUATION = "SELECT attempt, purpose, digest, body FROM evaluation"

RUNS = f"{RUN} ORDER BY id"
RUNS_OF_KERNEL = f"{RUN} WHERE kernel = ? ORDER BY id"
LATEST_RUN = (
    f"{RUN} WHERE kernel = ? AND EXISTS (SELECT 1 FROM attempt a WHERE a.run = run.id) ORDER BY id DESC LIMIT 1"
)
ONE_RUN = f"{RUN} WHERE id = ?"
ATTEMPTS_AFTER = f"{ATTEMPT} WHERE a.run = ? AND a.id > ? ORDER BY a.id"
ONE_ATTEMPT = f"{ATTEMPT} WHERE a.id = ? AND a.run = ?"
SEED = f"{ATTEMPT} WHERE a.run = ? AND a.parent IS NULL ORDER BY a.id LIMIT 1"
LAST_PROMOTED = (
    f"{ATTEMPT} WHERE a.id ="
    " (SELECT attempt FROM outcome WHERE run = ? AND status = 'promoted' ORDER BY id DESC LIMIT 1)"
)
OF_DIGEST = f"""{ATTEMPT} LEFT JOIN outcome o ON o.attempt = a.id
    WHERE a.run = ? AND a.digest = ? AND (o.status IS NULL OR o.status NOT IN ('duplicate', 'failed'))
    ORDER BY a.id LIMIT 1"""
UNFINISHED = f"""{ATTEMPT} WHERE a.run = ? AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.attempt = a.id)
    ORDER BY a.id"""
OUTCOMES_AFTER = f"{OUTCOME} WHERE run = ? AND id > ? ORDER BY id"
ONE_OUTCOME = f"{OUTCOME} WHERE attempt = ?"
COUNTS = "SELECT status, count(*) FROM outcome WHERE run = ? GROUP BY status"
EVALUATIONS = f"{EVALUATION} WHERE attempt = ? AND purpose = ? ORDER BY id"
DRAFT_EVALUATIONS = f"{EVALUATION} WHERE attempt = ? AND purpose = ? AND digest = ? ORDER BY id"
SOURCE = "SELECT text FROM source WHERE digest = ?"
EVENTS_AFTER = "SELECT id, run, time, kind, data FROM event WHERE run = ? AND id > ? ORDER BY id"
EVENTS_OF_KIND = "SELECT id, run, time, kind, data FROM event WHERE run = ? AND kind = ? AND id > ? ORDER BY id"

Asked = TypeVar("Asked", bound=Fact)


def runs(path: Path, kernel: str | None = None) -> tuple[Run, ...]:
    """The runs of the lineage at `path`, oldest first; of one kernel (path relative to the rootdir) when named."""
    with Reader(path) as reader:
        rows = reader.rows(RUNS) if kernel is None else reader.rows(RUNS_OF_KERNEL, kernel)
        return tuple(run_of(row) for row in rows)


def latest_run(path: Path, kernel: str) -> Run | None:
    """The youngest run of `kernel` in the lineage at `path`, or None; one that was killed before its seed is none."""
    with Reader(path) as reader:
        rows = reader.rows(LATEST_RUN, kernel)
        return run_of(rows[0]) if rows else None


class View:
    """One run of a lineage, read-only, for any thread. Every call sees what is committed by then.

    Attempts and outcomes never change, so the view keeps those it has read and asks the file for the new ones alone.
    """

    def __init__(self, path: Path, run: int) -> None:
        """Open run `run` of the lineage at `path`; InvalidInput when there is no such file or run."""
        self.path = path
        self._reader = Reader(path)
        found = self._rows(ONE_RUN, run)
        if not found:
            self._reader.close()
            raise InvalidInput(f"{path}: expected a run {run}, the lineage has none of that number")
        self.run = run_of(found[0])
        self._lock = threading.Lock()
        self._attempts: dict[int, Attempt] = {}
        self._outcomes: dict[int, AttemptOutcome] = {}
        self._last_attempt = self._last_outcome = 0
        self._scores: dict[int, float] = {}
        self._scored_attempts = self._scored_outcomes = 0

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts, oldest first."""
        with self._lock:
            for row in self._rows(ATTEMPTS_AFTER, self.run.id, self._last_attempt):
                self._last_attempt = row[0]
                self._attempts[row[0]] = attempt_of(row)
            return tuple(self._attempts.values())

    def attempt(self, attempt: int) -> Attempt:
        """The attempt with this id; KeyError when this run has none."""
        if found := self._first_attempt(ONE_ATTEMPT, attempt, self.run.id):
            return found
        raise KeyError(attempt)

    def unfinished(self) -> tuple[Attempt, ...]:
        """Attempts without an outcome, oldest first: what a resumed run takes up again."""
        return tuple(attempt_of(row) for row in self._rows(UNFINISHED, self.run.id))

    def find_by_digest(self, digest: str) -> Attempt | None:
        """The first attempt of this run with this source, or None.

        Attempts that ended as "duplicate" or "failed" were not evaluated and do not count. The one found may be
        unfinished: another member of the same generation proposed the same text.
        """
        return self._first_attempt(OF_DIGEST, self.run.id, digest)

    def incumbent(self) -> Attempt | None:
        """The attempt promoted last, else the seed; None before the seed is recorded."""
        return self._first_attempt(LAST_PROMOTED, self.run.id) or self._first_attempt(SEED, self.run.id)

    def outcomes(self) -> dict[int, AttemptOutcome]:
        """Attempt id -> outcome, of all finished attempts in the order they finished."""
        with self._lock:
            for row in self._rows(OUTCOMES_AFTER, self.run.id, self._last_outcome):
                self._last_outcome = row[0]
                self._outcomes[row[1]] = outcome_of(row)
            return dict(self._outcomes)

    def outcome(self, attempt: int) -> AttemptOutcome | None:
        """How the attempt ended, or None while it has not."""
        rows = self._rows(ONE_OUTCOME, attempt)
        return outcome_of(rows[0]) if rows else None

    def counts(self) -> dict[Status, int]:
        """Status -> number of finished attempts, only those above zero. The seed counts under "seed"."""
        return msgspec.convert(dict(self._rows(COUNTS, self.run.id)), dict[Status, int])

    def evaluations(self, attempt: int, purpose: Purpose, *, digest: str | None = None) -> tuple[StoredEvaluation, ...]:
        """What was stored for an attempt, in that order; `digest` picks one of the drafts made on top of it."""
        if digest is None:
            return tuple(evaluation_of(row) for row in self._rows(EVALUATIONS, attempt, purpose))
        return tuple(evaluation_of(row) for row in self._rows(DRAFT_EVALUATIONS, attempt, purpose, digest))

    def source(self, digest: str) -> str:
        """The text with this digest, without provenance lines; UnreadableLineage when the lineage has none."""
        rows = self._rows(SOURCE, digest)
        if not rows:
            raise UnreadableLineage(f"{self.path}: the lineage cannot be read: it lacks the source {digest}")
        return str(rows[0][0])

    def events(self, *kinds: type[Asked], after: int = 0) -> tuple[Event[Asked], ...]:
        """The events of these kinds with an id above `after`, oldest first."""
        rows = [row for kind in kinds for row in self._rows(EVENTS_OF_KIND, self.run.id, kind_of(kind), after)]
        return tuple(event_of(row) for row in sorted(rows, key=lambda row: int(row[0])))

    def all_events(self, *, after: int = 0) -> tuple[Event[Fact], ...]:
        """The events of the run with an id above `after`, oldest first, whatever they are about."""
        return tuple(event_of(row) for row in self._rows(EVENTS_AFTER, self.run.id, after))

    def log_score(self, attempt: int) -> float | None:
        """Log-ratio of an attempt to the seed, as was told when it was promoted, or measured at the end of the run.

        Else its step on its parent's score: the confirmed gain where there is one, or the screening's. None when a step
        was never measured; 0 for the seed.
        """
        self._score()
        with self._lock:
            return self._scores.get(attempt)

    def log_scores(self) -> dict[int, float]:
        """`log_score` of every attempt of the run that has one."""
        self._score()
        with self._lock:
            return dict(self._scores)

    def _score(self) -> None:
        """Bring the scores up to date."""
        self.outcomes()  # before the attempts: each outcome's attempt is known then
        self.attempts()
        totals = {x.fact.attempt: math.log(x.fact.ratio) for x in self.events(SeedComparison)}
        with self._lock:
            for attempt in islice(self._attempts.values(), self._scored_attempts, None):
                if attempt.parent is None:
                    self._scores[attempt.id] = 0.0
            # In the order in which they finished: whatever an attempt was compared with had finished before.
            for outcome in islice(self._outcomes.values(), self._scored_outcomes, None):
                if outcome.attempt not in self._attempts:
                    break  # another thread has just read it: its attempt is here the next time
                self._scored_outcomes += 1
                base = outcome.over or self._attempts[outcome.attempt].parent
                if outcome.attempt in totals:
                    self._scores[outcome.attempt] = totals[outcome.attempt]
                elif base in self._scores and outcome.step is not None:
                    self._scores[outcome.attempt] = self._scores[base] + outcome.step
            self._scored_attempts = len(self._attempts)

    def trend(self) -> list[float]:
        """Best log-ratio to the seed among the promoted, after each generation from 0 to the last that finished one."""
        outcomes, scores = self.outcomes(), self.log_scores()
        best: dict[int, float] = {}
        last = -1
        for attempt in self.attempts():
            if outcome := outcomes.get(attempt.id):
                last = max(last, attempt.generation)
                if outcome.status == "promoted":
                    best[attempt.generation] = max(best.get(attempt.generation, 0.0), scores.get(attempt.id, 0.0))
        return list(accumulate((best.get(generation, 0.0) for generation in range(last + 1)), max))

    def _rows(self, query: str, *parameters: object) -> list[Row]:
        return self._reader.rows(query, *parameters)

    def _first_attempt(self, query: str, *parameters: object) -> Attempt | None:
        rows = self._rows(query, *parameters)
        return attempt_of(rows[0]) if rows else None
