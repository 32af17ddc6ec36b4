"""Verbs of a step: what a member of a running evolution does from its folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_avo.command.connection import NoStep, ask, here, member_folder
from pytest_avo.command.lineages import how_many
from pytest_avo.operators.external.wire import USAGE, Reply, Request

Verbs = Any
"""What argparse's add_subparsers returns, whose type it keeps to itself."""
GEOMEAN = "geomean"


def add_verbs(verbs: Verbs) -> None:
    """Register them."""
    _add_evaluation(verbs)
    _add_looking(verbs)
    note = _verb(verbs, "note", _note, "Keep a lesson for later steps")
    note.add_argument("text", help="what happened and why, in two sentences")
    note.add_argument("--technique", default="", help="what was tried, in a few words")
    note.add_argument("--symptom", default="", help="how it showed")
    submit = _verb(verbs, "submit", _submit, "End the step with the draft as its candidate")
    submit.add_argument("-m", "--message", required=True, metavar="HYPOTHESIS", help="what limits it, what you changed")
    submit.add_argument(
        "--predict",
        action="append",
        default=[],
        metavar="[SHAPE=]RATIO",
        type=_prediction,
        help="parent's time / draft's time, of the geomean or a shape: 1.05 is 5%% faster",
    )
    _verb(verbs, "status", lambda given: Request(tool="status"), "Say what is open, running and left")


def _add_evaluation(verbs: Verbs) -> None:
    evaluate = _verb(verbs, "eval", _evaluate, "Check and time the draft beside the parent")
    evaluate.add_argument("--shape", action="append", default=[], metavar="ID", help="this shape alone; repeatable")
    evaluate.add_argument(
        "--quick", action="store_true", help="correctness alone, on the smallest shape or those named"
    )
    waiting = evaluate.add_mutually_exclusive_group()
    waiting.add_argument("--no-wait", action="store_true", help="give a ticket at once; `avo wait TICKET` waits for it")
    waiting.add_argument("--for", type=_seconds, dest="wait_s", metavar="S", help="wait at most S seconds")
    race = _verb(verbs, "race", _race, "Time the draft anew, in fresh rounds, beside a version or a peer")
    race.add_argument("against", nargs="?", default="incumbent", help="a version or a peer (default: the parent)")
    race.add_argument("--shape", action="append", default=[], metavar="ID", help="this shape alone; repeatable")
    wait = _verb(verbs, "wait", _wait, "Wait for an evaluation; after a submission, for the next step")
    wait.add_argument("ticket", nargs="?", type=int, help="default: the newest evaluation that runs")
    wait.add_argument("--for", type=_seconds, dest="wait_s", metavar="S", help="wait at most S seconds")
    for name, tool, words in (
        ("compile", "compile_report", "Show what the draft compiles to"),
        ("profile", "profile_draft", "Show where the draft's time goes"),
    ):
        verb = _verb(verbs, name, _looks_into(tool), words)
        verb.add_argument("--shape", default="", metavar="ID", help="default: the first shape")
        if name == "compile":
            verb.add_argument("--function", metavar="NAME", help="of a CPU kernel: the machine code of a function")
    scratch = _verb(verbs, "run", _scratch, "Run a script beside the draft where kernels are evaluated")
    scratch.add_argument("script", type=Path, help="Python; it can import draft and torch, and counts for nothing")
    machine = "Show the machine that evaluates: instruction sets, caches, rates, compilers, load"
    _verb(verbs, "machine", lambda given: Request(tool="machine_facts"), machine)


def _add_looking(verbs: Verbs) -> None:
    log = _verb(verbs, "log", _log, "List attempts, newest first")
    log.add_argument("-n", type=how_many, default=20, dest="last", metavar="N", help="how many (default: 20)")
    log.add_argument("--promoted", action="store_true", help="only those that were promoted")
    show = _verb(verbs, "show", _show, "Show one version: outcome, figures, source")
    show.add_argument("version", help="seed, incumbent, or a name as in g0007")
    show.add_argument("--diff", action="store_true", help="instead, what it changed in its parent")
    search = _verb(verbs, "search", _search, "Find lessons and passages of the knowledge base")
    search.add_argument("words", nargs="+")


def run(given: argparse.Namespace) -> Reply:
    """Ask the evolution what the verb means, in the member's folder."""
    requests = given.request(given)
    folder = member_folder(here())
    replies = [ask(folder, each) for each in (requests if isinstance(requests, list) else [requests])]
    if len(replies) == 1:
        return replies[0]
    status = max(reply.status for reply in replies)
    return Reply(
        text="\n\n".join(reply.text for reply in replies), status=status, data={"replies": [x.data for x in replies]}
    )


def _verb(
    verbs: Verbs, name: str, request: Callable[[argparse.Namespace], object], words: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=f"{words}.")
    parser.add_argument("--json", action="store_true", help="answer with a JSON object")
    parser.set_defaults(run=run, request=request)
    return parser


def _evaluate(given: argparse.Namespace) -> Request:
    arguments: dict[str, Any] = {"shapes": given.shape, "timed": not given.quick}
    if given.quick and not given.shape:
        arguments = {"shapes": ["smallest"], "timed": False}
    return Request(tool="evaluate_draft", arguments=arguments, wait_s=0 if given.no_wait else given.wait_s)


def _race(given: argparse.Namespace) -> Request:
    return Request(tool="race_draft", arguments={"against": given.against, "shapes": given.shape})


def _scratch(given: argparse.Namespace) -> Request:
    try:
        script = given.script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NoStep(f"{given.script} cannot be read: {reason}", status=USAGE) from None
    return Request(tool="run_scratch", arguments={"script": script})


def _wait(given: argparse.Namespace) -> Request:
    return Request(tool="wait", arguments={"ticket": given.ticket}, wait_s=given.wait_s)


def _looks_into(tool: str) -> Callable[[argparse.Namespace], Request]:
    """Beside the shape, a function where one is named."""

    def request(given: argparse.Namespace) -> Request:
        function = getattr(given, "function", None)
        return Request(tool=tool, arguments={"shape": given.shape} | ({"function": function} if function else {}))

    return request


def _log(given: argparse.Namespace) -> Request:
    return Request(
        tool="list_versions", arguments={"last": given.last, "only": "promoted" if given.promoted else "all"}
    )


def _show(given: argparse.Namespace) -> Request:
    if given.diff:
        return Request(tool="diff_versions", arguments={"after": given.version})
    return Request(tool="read_version", arguments={"version": given.version})


def _search(given: argparse.Namespace) -> list[Request]:
    query = " ".join(given.words)
    return [Request(tool=tool, arguments={"query": query}) for tool in ("search_lessons", "search_knowledge")]


def _note(given: argparse.Namespace) -> Request:
    arguments = {"text": given.text, "technique": given.technique, "symptom": given.symptom}
    return Request(tool="record_lesson", arguments=arguments)


def _submit(given: argparse.Namespace) -> Request:
    return Request(tool="submit", arguments={"hypothesis": given.message, "predicted": dict(given.predict)})


def _prediction(text: str) -> tuple[str, float]:
    name, _, written = text.rpartition("=")
    try:
        ratio = float(written.removesuffix("x"))
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < math.inf:
        raise argparse.ArgumentTypeError(f"expected a ratio such as 1.05, or SHAPE=1.05, got {text!r}")
    return name or GEOMEAN, ratio


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return seconds
