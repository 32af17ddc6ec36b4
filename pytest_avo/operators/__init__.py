"""Variation operators: what proposes the next candidate."""
