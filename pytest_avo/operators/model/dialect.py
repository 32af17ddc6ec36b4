"""The dialect of a server: what it calls the limit on an answer, and whether it takes a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LIMITS = ("max_tokens", "max_completion_tokens")
_OPTIONAL = (*_LIMITS, "seed")
_UNKNOWN_FIELD = re.compile(
    r"not supported|unsupported|unknown|unrecognized|unexpected|extra|not permitted", re.IGNORECASE
)


class Dialect:
    """Which optional fields a server takes, learnt from what it refuses. Conversations with one endpoint share one."""

    def __init__(self) -> None:
        self._refused: frozenset[str] = frozenset()

    def fields(self, *, max_output_tokens: int, seed: int | None, hosted: bool) -> dict[str, int]:
        """The limit on the answer, under the name that the server takes, and the seed where it takes one.

        OpenAI's reasoning models know only `max_completion_tokens`, several compatible servers only `max_tokens`.
        """
        names = ("max_completion_tokens", "max_tokens") if hosted else ("max_tokens", "max_completion_tokens")
        limit = next((name for name in names if name not in self._refused), names[0])
        fields = {limit: max_output_tokens}
        if seed is not None and "seed" not in self._refused:
            fields["seed"] = seed
        return fields

    def learns(self, refusal: str, sent: Mapping[str, object]) -> bool:
        """Whether a refusal is about the name of a field that was sent, and the request can be put differently."""
        if not _UNKNOWN_FIELD.search(refusal):
            return False
        named = {name for name in _OPTIONAL if name in sent and re.search(rf"\b{name}\b", refusal)}
        self._refused |= named
        return bool(named) and not self._refused.issuperset(_LIMITS)
