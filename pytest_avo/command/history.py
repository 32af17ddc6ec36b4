"""Verbs that look back: runs of a project's lineage, their attempts, and versions back into the kernel's file.

What reads the lineage is imported by the verbs alone: those of a step start in the time of a Python.
"""

from __future__ import annotations

import argparse
import difflib
import math
from typing import TYPE_CHECKING, Any

from pytest_avo.command.connection import NoStep, here, member_folder
from pytest_avo.command.lineages import answered, lineage_path, run_number
from pytest_avo.operators.external.wire import WRONG, Reply
from pytest_avo.report.text import counted

if TYPE_CHECKING:
    from pytest_avo.lineage.records import Attempt, Run
    from pytest_avo.lineage.view import View

SEPARATOR = "  "


def add_verbs(verbs: Any) -> None:
    """Register them; `show` and `log` of a step look back where no step is open."""
    runs = _verb(verbs, "runs", _runs, "List the runs of this project's lineage")
    runs.add_argument("kernel", nargs="?", help="those of this file alone, as the lineage names it")
    restore = _verb(verbs, "restore", _restore, "Write a version of a run into the kernel's file")
    restore.add_argument("version", help="seed, incumbent, or a name as in g0007")
    restore.add_argument("--run", type=run_number, metavar="N", help="default: the last run", dest="number")
    restore.add_argument("--force", action="store_true", help="also over a text that is none of the run's")
    compare = _verb(verbs, "compare", _compare, "Show what two runs have in common and what not")
    compare.add_argument("first", type=run_number, metavar="RUN")
    compare.add_argument("second", type=run_number, metavar="RUN")
    for name, look_back in (("show", _show), ("log", _log)):
        verb = verbs.choices[name]
        verb.add_argument(
            "--run", type=run_number, metavar="N", dest="number", help="of the lineage, outside of a step"
        )
        verb.set_defaults(run=_inside_or_back(verb.get_default("run"), look_back))


def _verb(verbs: Any, name: str, run: Any, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=f"{words}.")
    parser.add_argument("--json", action="store_true", help="answer with a JSON object")
    parser.set_defaults(run=answered(run))
    return parser


def _inside_or_back(inside: Any, look_back: Any) -> Any:
    def run(given: argparse.Namespace) -> Reply:
        if given.number is None:
            try:
                member_folder(here())
            except NoStep:
                pass
            else:
                reply: Reply = inside(given)
                return reply
        back: Reply = answered(look_back)(given)
        return back

    return run


def _view(number: int | None) -> View:
    from pytest_avo.core.errors import InvalidInput
    from pytest_avo.lineage.view import View, runs

    path = lineage_path()
    if number is None:
        known = runs(path)
        if not known:
            raise InvalidInput(f"{path}: the lineage has no run yet")
        number = known[-1].id
    return View(path, number)


def _runs(given: argparse.Namespace) -> Reply:
    from pytest_avo.lineage.view import View, runs

    path = lineage_path()
    found = []
    for run in runs(path, given.kernel):
        with View(path, run.id) as view:
            found.append(_account(run, view))
    of = f" of {given.kernel}" if given.kernel else ""
    if not found and (known := ", ".join(dict.fromkeys(run.kernel for run in runs(path)))):
        of += f": expected {known}"
    text = "\n".join(_line(account) for account in found) or f"{path}: no run{of}"
    return Reply(text=text, data={"runs": found})


def _account(run: Run, view: View) -> dict[str, Any]:
    """What a run was and came to."""
    counts = {str(status): number for status, number in view.counts().items()}
    incumbent, outcomes = view.incumbent(), view.outcomes().values()
    score = None if incumbent is None else view.log_score(incumbent.id)
    return {
        "run": run.id,
        "started": run.started[:16],
        "kernel": run.kernel,
        "device": run.fingerprint.device,
        "operator": run.settings.get("operator", run.operator),
        "model": run.settings.get("model", ""),
        "attempts": sum(number for status, number in counts.items() if status != "seed"),
        "promoted": counts.get("promoted", 0),
        "over_seed": None if score is None else math.exp(score),
        "tokens": sum(outcome.tokens_in + outcome.tokens_out for outcome in outcomes),
        "cost": sum(outcome.cost for outcome in outcomes),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "settings": run.settings,
        "outcomes": counts,
    }


def _line(account: dict[str, Any]) -> str:
    over = "" if account["over_seed"] is None else f"{account['over_seed']:.3f}x the seed"
    size = f"{counted(account['attempts'], 'attempt')}, {account['promoted']} promoted"
    parts = [f"run {account['run']}", account["started"], account["kernel"], account["operator"], size, over]
    return SEPARATOR.join(part for part in parts if part)


def _log(given: argparse.Namespace) -> Reply:
    from pytest_avo.operators.knowledge.versions import line, visible

    with _view(given.number) as view:
        outcomes, scores = view.outcomes(), view.log_scores()
        shown = visible(view, promoted_only=given.promoted)[-given.last :]
        lines = [line(each, outcomes.get(each.id), scores.get(each.id)) for each in reversed(shown)]
        return Reply(text="\n".join([f"run {view.run.id}: {view.run.kernel}", *lines]), data={"versions": lines})


def _show(given: argparse.Namespace) -> Reply:
    from pytest_avo.operators.knowledge.versions import find_version, line, version_name

    with _view(given.number) as view:
        attempt = find_version(view, given.version, promoted_only=False)
        outcome, source = view.outcome(attempt.id), view.source(attempt.digest)
        head = [line(attempt, outcome, view.log_scores().get(attempt.id)), f"run {view.run.id}: {view.run.kernel}"]
        head.append(f"digest {attempt.digest}, operator {attempt.operator}, {attempt.created}")
        if outcome is not None and outcome.reason:
            head.append(f"reason: {outcome.reason}")
        if outcome is not None and outcome.lesson:
            head.append(f"lesson: {outcome.lesson}")
        text = _diff(view, attempt) if given.diff else source
        data = {"version": version_name(attempt), "digest": attempt.digest, "source": source}
        return Reply(text="\n".join([*head, "", text]), data=data)


def _diff(view: View, attempt: Attempt) -> str:
    from pytest_avo.operators.knowledge.versions import version_name

    if attempt.parent is None:
        return "the seed has no parent"
    parent = view.attempt(attempt.parent)
    old, new = (view.source(each.digest).splitlines() for each in (parent, attempt))
    return "\n".join(difflib.unified_diff(old, new, version_name(parent), version_name(attempt), lineterm=""))


def _restore(given: argparse.Namespace) -> Reply:
    from pytest_avo.core.disk.files import write_atomically
    from pytest_avo.core.disk.text_form import TextForm
    from pytest_avo.core.kernel import read_kernel
    from pytest_avo.operators.knowledge.versions import find_version, version_name

    with _view(given.number) as view:
        attempt = find_version(view, given.version, promoted_only=False)
        path = view.path.parent.parent / view.run.kernel
        known = {each.digest for each in view.attempts()}
        if path.exists() and read_kernel(path).digest not in known and not given.force:
            reason = f"holds a text that is none of run {view.run.id}'s and would be lost"
            return Reply(text=f"error: {path}: {reason}; --force writes over it", status=WRONG)
        form = TextForm.of(path.read_bytes()) if path.exists() else TextForm()
        write_atomically(path, form.encoded(view.source(attempt.digest)))
        text = f"{path}: now {version_name(attempt)} of run {view.run.id} (digest {attempt.digest})"
        return Reply(text=text, data={"path": str(path), "digest": attempt.digest})


def _compare(given: argparse.Namespace) -> Reply:
    accounts = []
    for number in (given.first, given.second):
        with _view(number) as view:
            accounts.append(_account(view.run, view))
    one, other = ({**account, **account["settings"]} for account in accounts)
    skipped = ("settings", "outcomes", "run", "started")
    names = [name for name in dict.fromkeys([*one, *other]) if name not in skipped and one.get(name) != other.get(name)]
    lines = [f"{name}: {_shown(one.get(name))} | {_shown(other.get(name))}" for name in names]
    outcomes = [
        f"run {each['run']}: " + ", ".join(f"{count} {kind}" for kind, count in each["outcomes"].items())
        for each in accounts
    ]
    return Reply(text="\n".join([*map(_line, accounts), "", *lines, "", *outcomes]), data={"runs": accounts})


def _shown(value: object) -> str:
    return "-" if value in (None, "") else f"{value:.4g}" if isinstance(value, float) else str(value)
