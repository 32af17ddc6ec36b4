"""`avo`: from the command line to a verb, and from its reply to the terminal and an exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TextIO

from pytest_avo.command import history, hub, report, step
from pytest_avo.command.connection import NoStep
from pytest_avo.operators.external.wire import WRONG, Reply

GROUPS = (step, history, report, hub)
"""Modules of verbs: each adds its own, with `run`, which takes what argparse read and returns a Reply."""
STATUSES = (
    "exit status: 0 done, 1 the draft or the call is wrong, 2 usage, 3 the budget is spent, 4 no step is open, "
    "5 the evaluator failed, 6 still running"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="avo", description="Evaluate, look into and submit kernels of an evolution.", epilog=STATUSES
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for group in GROUPS:
        group.add_verbs(verbs)
    given = parser.parse_args(arguments)
    try:
        reply: Reply = given.run(given)
    except NoStep as error:
        reply = Reply(text=f"avo: {error}", status=error.status)
    except OSError as error:
        reply = Reply(text=f"avo: {error.filename or 'failed'}: {error.strerror}", status=WRONG)
    except KeyboardInterrupt:
        return 130
    if given.json:
        reply = Reply(text=json.dumps({"status": reply.status, "text": reply.text, **reply.data}), status=reply.status)
    is_said = say(reply.text, sys.stderr if _is_error(reply) and not given.json else sys.stdout)
    return reply.status if is_said else reply.status or WRONG


def say(text: str, stream: TextIO | None) -> bool:
    """Print a reply; what the locale's encoding lacks, or a file's name that is no text, is spelled out.

    False where it cannot be written, to a full disk, say: whoever closed the stream, or reads no further, wants none.
    """
    if stream is None:
        return True
    encoding = stream.encoding or "utf-8"
    if stream.isatty():  # a hypothesis may hold what a terminal obeys
        text = "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        if stream is sys.stdout:
            sys.stdout = None  # or Python would try again when it ends
        if isinstance(error, BrokenPipeError):  # `avo log | head`
            return True
        say(f"avo: the answer cannot be written: {error.strerror}", sys.stderr if stream is not sys.stderr else None)
        return False
    return True


def _is_error(reply: Reply) -> bool:
    return reply.text.startswith(("error:", "avo:"))
