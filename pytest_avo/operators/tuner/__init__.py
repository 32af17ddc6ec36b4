"""The embedded operator: varies declared tunables, guided by the lineage. No model, no network."""
