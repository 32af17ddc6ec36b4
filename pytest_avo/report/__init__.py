"""Rendering only: results and lineages as terminal lines, JSON and Markdown. Knows core, not pytest."""
