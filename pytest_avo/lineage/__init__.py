"""What was tried and what came of it: append-only, and whole after a kill at any instant."""
