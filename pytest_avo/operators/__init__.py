"""Variation operators: what turns a lineage into the next candidate."""
