"""Whether a kernel left work running on a GPU when it had answered: that delays what the judge asks of it next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

IDLE_S = 0.0002
"""A GPU that answers sooner has nothing else to do. The first answer after another process had its turn takes 0.15 to
0.3 ms, the ones after it 0.03 to 0.1 ms (one H200, 2026-11-29)."""
MOST_ANSWERS = 8
"""How often the device is asked before giving up: a turn of another process that has work lasts 2.4 ms."""
OFTEN_LATE, RECENT_SLICES = 3, 20
"""Where a GPU is busy to the last answer after OFTEN_LATE of the last RECENT_SLICES timed slices, the kernel left work
there; after a single one a busy host may be why."""


class Lateness:
    """How late the device answered after the recent slices of one kernel."""

    def __init__(self) -> None:
        self._late: deque[bool] = deque(maxlen=RECENT_SLICES)

    def wait(self, response_s: Callable[[], float]) -> float:
        """Ask a device until it is idle; the seconds that its answers took, one after the other.

        Processes take turns on it: an answer may come in between, and the next one is late again.
        """
        answers: list[float] = []
        while len(answers) < MOST_ANSWERS and (not answers or answers[-1] > IDLE_S):
            answers.append(response_s())
        self._late.append(answers[-1] > IDLE_S)
        return sum(answers)

    @property
    def is_usual(self) -> bool:
        """Whether the device was busy after many slices, however often it was asked."""
        return sum(self._late) >= OFTEN_LATE
