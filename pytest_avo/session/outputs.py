"""Writes what a run leaves behind: the files that the user asked for, and what GitHub's runner reads by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.errors import InvalidInput
from pytest_avo.report.catalogue import FORMATS
from pytest_avo.report.files.annotations import commands
from pytest_avo.report.files.markdown import SUMMARY_BYTES, markdown
from pytest_avo.report.page.facts import RunFacts
from pytest_avo.report.results import Results

PAGE = "html"
"""The format that an evolution writes from its lineage."""


def write_files(found: Results, paths: Mapping[str, Path]) -> None:
    """Write a file of each format that has a path; InvalidInput in the end for those that cannot be written."""
    of = {each.name: each for each in FORMATS}
    failed = []
    for name, path in paths.items():
        try:
            write_atomically(path, of[name].text(found))
        except InvalidInput as error:
            failed.append(str(error))
    if failed:
        raise InvalidInput("; ".join(failed))


def leave(write: Callable[[], None], session: pytest.Session) -> int:
    """Have a run write what outlives it; the exit status: of a run that went well, 3 where a disk is full, say."""
    try:
        write()
    except (InvalidInput, OSError) as error:
        print_apart(session.config, f"ERROR: {error}")
        return int(session.exitstatus) or pytest.ExitCode.INTERNAL_ERROR
    return int(session.exitstatus)


def write_run_page(facts: RunFacts, path: Path) -> None:
    """Write the page of a run; InvalidInput where it cannot be written."""
    from pytest_avo.report.page.runs import runs_page  # what draws is an extra, and nobody else's business

    write_atomically(path, runs_page([facts]))


def print_apart(config: pytest.Config, text: str) -> None:
    """Lines that begin at the left margin of standard output, with or without a terminal reporter."""
    # The reporter's own ensure_newline does not see the line that xdist's dots stand on.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        sys.stdout.write(f"\n{text}\n")
        sys.stdout.flush()
    else:
        reporter.write(f"\n{text}\n", flush=True)


def tell_github(found: Results, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """In a job of GitHub Actions: the summary of the job, and annotations beside the code."""
    if summary := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(markdown(found.rows, found.totals, found.unmeasured, most_bytes=SUMMARY_BYTES) + "\n")
        except OSError as error:
            say(f"avo: no summary of the job: {error}")
    if environment.get("GITHUB_ACTIONS") == "true":
        workspace = Path(environment.get("GITHUB_WORKSPACE", found.rootdir))
        if lines := commands(found.rows, found.totals, found.unmeasured, rootdir=found.rootdir, workspace=workspace):
            say("\n".join(lines))
