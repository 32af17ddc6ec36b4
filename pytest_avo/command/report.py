"""Verbs that write files about runs: `avo report`, a page to look at, and `avo export`, for other tools.

What reads the lineage and draws is imported by the verbs alone, as in `history`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_avo.command.connection import NoStep, here
from pytest_avo.command.lineages import LINEAGE, answered, lineage_path, run_number
from pytest_avo.operators.external.wire import USAGE, Reply

if TYPE_CHECKING:
    from pytest_avo.lineage.view import View

RUN = "its number in this project's lineage, or a project's folder or lineage file, with :N for another than the last"


def add_verbs(verbs: Any) -> None:
    """Register them."""
    words = "Write a page about runs, complete or not: one file of HTML, several runs laid over each other"
    report = verbs.add_parser("report", help=words, description=f"{words}.")
    report.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"{RUN}; or files of --avo-json (default: the last run of this project)"
    )
    report.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    report.add_argument("--json", action="store_true", help="answer with a JSON object")
    report.set_defaults(run=answered(_report))
    words = (
        "Write a run as a table, a row per attempt and shape (docs/reference/export.md says what the columns are), "
        "or its candidates as a folder that --avo-inbox takes"
    )
    export = verbs.add_parser("export", help=words, description=f"{words}.")
    export.add_argument("named", nargs="?", default="", metavar="RUN", help=f"{RUN} (default: the last run)")
    for name in ("csv", "jsonl", "parquet"):
        export.add_argument(f"--{name}", type=Path, metavar="FILE")
    export.add_argument("--inbox", type=Path, metavar="DIR", help="which is empty or not there yet")
    export.add_argument("--json", action="store_true", help="answer with a JSON object")
    export.set_defaults(run=answered(_export))


def _report(given: argparse.Namespace) -> Reply:
    from pytest_avo.core.disk.files import write_atomically
    from pytest_avo.evolution.chronicle import Chronicle
    from pytest_avo.report.page.libraries import check_libraries

    check_libraries("avo report")
    output = here() / given.output
    if files := [Path(each) for each in given.runs if each.endswith(".json")]:
        return _compare_files(files, given)
    from pytest_avo.report.page.runs import run_titles, runs_page

    with ExitStack() as open_views:
        views = [open_views.enter_context(view_of(each)) for each in given.runs or [""]]
        facts = [Chronicle(view).facts() for view in views]
    write_atomically(output, runs_page(facts))
    named = [f"{title}, {each.kernel}, {each.operator}" for title, each in zip(run_titles(facts), facts, strict=True)]
    return Reply(text=f"{given.output}: {'; '.join(named)}", data={"path": str(given.output)})


def _export(given: argparse.Namespace) -> Reply:
    from pytest_avo.core.disk.files import write_atomically
    from pytest_avo.evolution.chronicle import Chronicle
    from pytest_avo.operators.external.recorded_inbox import write_inbox
    from pytest_avo.report.files.run_table import as_csv, as_jsonl, as_parquet, rows
    from pytest_avo.report.page.libraries import check_libraries
    from pytest_avo.report.text import counted

    writers: dict[str, Callable[[Any], str | bytes]] = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}
    asked = {name: getattr(given, name) for name in writers if getattr(given, name) is not None}
    if not asked and given.inbox is None:
        expected = "--csv FILE, --jsonl FILE, --parquet FILE or --inbox DIR"
        return Reply(text=f"avo: export: expected {expected}", status=USAGE)
    if "parquet" in asked:
        check_libraries("avo export --parquet", ("pyarrow",), extra="parquet")
    folder = here()
    said = []
    with view_of(given.named) as view:
        facts = Chronicle(view).facts()
        if given.inbox is not None:
            said.append(
                f"{given.inbox}: {counted(write_inbox(view, folder / given.inbox), 'candidate')} of {facts.label}"
            )
    if asked:
        table = list(rows(facts))
        for name, path in asked.items():
            write_atomically(folder / path, writers[name](table))
        said.append(f"{', '.join(map(str, asked.values()))}: {counted(len(table), 'row')} of {facts.label}")
    written = [str(path) for path in (*asked.values(), given.inbox) if path is not None]
    return Reply(text="\n".join(said), data={"paths": written})


def _compare_files(files: list[Path], given: argparse.Namespace) -> Reply:
    """A page of results that --avo-json wrote."""
    from pytest_avo.core.disk.files import write_atomically
    from pytest_avo.report.page.bench import bench_page, read_bench

    if len(files) != len(given.runs):
        return Reply(text="error: expected runs, or files of --avo-json, not both", status=USAGE)
    write_atomically(here() / given.output, bench_page([read_bench(each) for each in files]))
    return Reply(text=f"{given.output}: {', '.join(map(str, files))}", data={"path": str(given.output)})


def view_of(named: str) -> View:
    """The run that a word of the command line names; "" for the last one of the project around the working folder."""
    from pytest_avo.core.errors import InvalidInput
    from pytest_avo.lineage.view import View, runs

    if _is_number(named):
        return View(lineage_path(), int(named))
    place, colon, number = named.rpartition(":")
    if not (colon and _is_number(number)):
        place, number = named, ""
    path = Path(place) / LINEAGE if Path(place).is_dir() and place else Path(place)
    if not place:
        path = lineage_path()
    elif not path.is_file():
        raise NoStep(f"{named}: expected a run: {RUN}", status=USAGE)
    if number:
        return View(path, int(number))
    known = runs(path)
    if not known:
        raise InvalidInput(f"{path}: the lineage has no run yet")
    return View(path, known[-1].id)


def _is_number(text: str) -> bool:
    try:
        return bool(run_number(text))
    except argparse.ArgumentTypeError:
        return False
