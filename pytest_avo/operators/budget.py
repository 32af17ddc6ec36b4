"""The budget: hard limits of a run, what a model costs, and the error of what would pass a limit."""

from __future__ import annotations

from dataclasses import dataclass


class BudgetExhausted(Exception):
    """A hard limit would be passed by what was about to be spent; everything finished so far is kept."""

    def __init__(self, limit: str, reason: str) -> None:
        super().__init__(f"budget exhausted ({limit}): {reason}")
        self.limit = limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the model costs per million tokens, in the user's currency."""

    input_per_million: float
    output_per_million: float

    def cost(self, *, tokens_in: int, tokens_out: int) -> float:
        """The cost of so many tokens."""
        return (tokens_in * self.input_per_million + tokens_out * self.output_per_million) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard limits of a run, `None` where there is none.

    Tokens in and out together, cost, seconds of wall time, and evaluations: shapes that drafts and candidates were
    tried on, the seed not counted.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    max_time_s: float | None = None
    max_evaluations: int | None = None
