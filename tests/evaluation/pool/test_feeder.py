"""What is said of a worker that was lost."""

from __future__ import annotations

import pytest

from pytest_avo.evaluation.pool.feeder import _brief

TRACEBACK = 'Traceback (most recent call last):\n  File "worker.py", line 3, in main\n    import torch\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRACEBACK + "OSError: [Errno 27] File too large\n", "OSError: [Errno 27] File too large"),
        (
            TRACEBACK + "ValueError: \nInvalid log settings: x\nValid:\nall, aot\n",
            "ValueError:  Invalid log settings: x",
        ),
        ("the line is dead\nits python ended with status 1", "its python ended with status 1"),
        (TRACEBACK, "    import torch"),
        ("", ""),
    ],
)
def test_an_error_is_said_in_a_line_by_its_first_words(text: str, said: str) -> None:
    found = _brief(RuntimeError(text))
    assert found.startswith(f"RuntimeError: {said}" if said else "RuntimeError")
    assert len(_brief(RuntimeError(TRACEBACK + "x " * 10_000))) < 400
