"""Finds attempts that were the same program, whatever their comments and layout."""

from __future__ import annotations

import threading

from pytest_avo.core.likeness import normalised
from pytest_avo.lineage.records import Attempt
from pytest_avo.lineage.view import View


class Programs:
    """Finds the attempt that was the same program. Safe to use from several threads."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._known: dict[str, Attempt] = {}
        self._seen: set[int] = set()

    def find(self, source: str) -> Attempt | None:
        """The first finished attempt with the same program; those that were not evaluated themselves do not count."""
        with self._lock:
            outcomes = self._view.outcomes()
            for attempt in self._view.attempts():
                if attempt.id in outcomes and attempt.id not in self._seen:
                    self._seen.add(attempt.id)
                    if outcomes[attempt.id].status not in {"duplicate", "failed"}:
                        self._known.setdefault(normalised(self._view.source(attempt.digest)), attempt)
            return self._known.get(normalised(source))
