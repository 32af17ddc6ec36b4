"""The rules of an evolution, without pytest."""
