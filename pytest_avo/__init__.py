"""Agentic variation operators (AVO, arXiv:2603.24517) for attention kernels, as a pytest plugin."""

from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).parent
"""The package's own folder; the folder above it is what a process needs on its path to import it."""
