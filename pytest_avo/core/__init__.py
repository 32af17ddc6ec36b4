"""Pure values: no torch, no pytest, no process."""
