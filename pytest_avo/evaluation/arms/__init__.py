"""Kernel processes as the judge sees and keeps them: sockets, shared memory, starts. No verdicts."""
