"""The text of a kernel that declares a claim and tunables of every type."""

from __future__ import annotations

from pathlib import Path

PATH = Path("kernels/mine.py")
SOURCE = '''"""A kernel."""
raise SystemExit("a kernel is never imported to be read")
AVO = {"target": "cpu", "shapes": ["smoke", "decode-cpu"]}
BLOCK_Q = 64  # queries per tile
FAST: bool = True
SHIFT = -1.5
MODE = "a"
TUNABLES = {"BLOCK_Q": [32, 64], "FAST": [False, True], "SHIFT": [-1.5, 0.0], "MODE": ["a", "b"]}
'''
