"""What a kernel left running on a GPU when it had answered: it delays whatever the judge asks of the device next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

BUSY_S = 0.0015
"""A GPU that answers later than this is kept busy by someone, and only one kernel's process is not frozen."""
OFTEN_LATE, RECENT_SLICES = 3, 20
"""Of so many timed slices, the ones after which the GPU may not be late. Once it is so for a host that is busy too."""


class Lateness:
    """Of a device after the recent slices of one kernel."""

    def __init__(self) -> None:
        self._late: deque[bool] = deque(maxlen=RECENT_SLICES)

    def note(self, responses_s: Sequence[float]) -> float:
        """Take down how long answers took, one after the other, and say after how many seconds the device was idle.

        Processes take turns on it: an answer may come in between, and the next one is late again.
        """
        self._late.append(min(responses_s, default=0.0) > BUSY_S)
        waited = next((n for n, each in enumerate(responses_s, start=1) if each <= BUSY_S), len(responses_s))
        return sum(responses_s[:waited])

    @property
    def is_usual(self) -> bool:
        """Whether the device was late after many slices, however often it was asked."""
        return sum(self._late) >= OFTEN_LATE
