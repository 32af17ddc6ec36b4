"""Kinds of inputs that kernels are timed on: what scores are like in models, where they are not all alike.

How long a kernel takes depends on its scores: on how often a running maximum moves and results are rescaled, on what
can be skipped, on how much power numbers take. A kernel that is timed on one kind alone is made for that kind.
The definitions are those of `evaluation/correctness/timed_kinds.py`, which draws them.
"""

from __future__ import annotations

from typing import Literal

InputKind = Literal["normal", "spread", "sink", "rising", "falling", "local"]
INPUT_KINDS: dict[InputKind, str] = {
    "normal": "independent numbers of variance 1: scores of standard deviation 1 under the usual scale",
    "spread": "the same with scores of standard deviation 8: a few keys take the weight of a query",
    "sink": "the first key takes nine tenths of the weight of every query, or more",
    "rising": "scores grow from the first key to the last, by 64 in all",
    "falling": "scores fall from the first key to the last, by 64 in all",
    "local": "keys near a query take most of its weight, as rotary embeddings make them",
}
"""What each is, in words for users."""
USUAL: tuple[InputKind, ...] = ("normal",)
"""Of a suite that names none."""
