"""What the user chose for operators outside this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

WORK = ".avo-agents"
"""Folder below the rootdir where coding agents work: not in `.avo`, since whoever writes there writes the lineage."""
STEP_TIME_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSettings:
    """A coding agent and its time, or an inbox."""

    agent: str = ""
    """Name of a preset, or a command; empty where none is chosen."""
    step_time_s: float = STEP_TIME_S
    """Longest step; what it has by then is taken."""
    inbox: Path | None = None
    """Folder that candidates come from."""
    work: Path = field(default=Path(WORK))
    """Where the folders of coding agents are."""
