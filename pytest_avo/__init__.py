"""Agentic variation operators (AVO, arXiv:2603.24517) for attention kernels, as a pytest plugin."""

__version__ = "0.1.0"
