"""What a run does: one mode of several, each with an option of its own."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["bench", "evolve", "compile", "interpret", "selftest", "aa", "serve"]
MODES: tuple[Mode, ...] = get_args(Mode)
