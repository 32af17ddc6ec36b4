"""What a user's mistake becomes: one sentence that names the file, the key and what was expected."""

from __future__ import annotations


class InvalidInput(Exception):
    """A file, option or key that the user wrote is wrong: a usage error (exit status 4), never a traceback."""


class EvaluatorError(Exception):
    """The evaluator itself failed (no device, worker lost). An ERROR of the run, never a candidate's verdict."""
