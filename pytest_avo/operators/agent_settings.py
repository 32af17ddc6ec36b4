"""What the user chose for operators that ask a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TURNS = 40
CONTEXT_TOKENS = 100_000
MODEL_TIMEOUT_S = 300.0
STALL = 6
CYCLE = 4
DIRECTIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """A model, how it is used, and which parts of the agent are on."""

    model: str = ""
    """Empty where none is configured."""
    base_url: str | None = None
    """None: the openai package's own default."""
    model_timeout_s: float = MODEL_TIMEOUT_S
    """Seconds for one call of the model, its retries included."""
    turns: int = TURNS
    """Answers of the model in one step, at most."""
    context_tokens: int = CONTEXT_TOKENS
    """Size at which a conversation is compacted."""
    knowledge: tuple[Path, ...] = ()
    """Folders beside the knowledge that is shipped."""
    use_supervisor: bool = True
    use_knowledge: bool = True
    use_memory: bool = True
    stall: int = STALL
    """Attempts without a commit after which the supervisor steps in."""
    cycle: int = CYCLE
    """Attempts in a row that are near-duplicates, or fail the same way, after which it does too."""
    directions: int = DIRECTIONS
    """Directions that it gives each time."""
    replay: int | None = None
    """Run whose recorded answers are given instead of a model's."""
