"""What a run leaves behind: the files that the user asked for, and what GitHub's runner takes by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_avo.core.files import write_atomically
from pytest_avo.report.formats.annotations import commands
from pytest_avo.report.formats.bmf import bmf
from pytest_avo.report.formats.export import export
from pytest_avo.report.formats.gab import gab
from pytest_avo.report.formats.markdown import SUMMARY_BYTES, markdown
from pytest_avo.report.results import Results

FORMATS: Mapping[str, Callable[[Results], str]] = {
    "json": lambda found: export(found.rows, found.totals, fingerprint=found.fingerprint, rootdir=found.rootdir),
    "bmf": lambda found: bmf(found.rows),
    "gab": lambda found: gab(found.rows),
    "markdown": lambda found: markdown(found.rows, found.totals),
}
"""By the option, --avo-json and so on, that gives the path of the file."""


def write_files(found: Results, paths: Mapping[str, Path]) -> None:
    """Write a file of each format that has a path; InvalidInput where one cannot be written."""
    for name, path in paths.items():
        write_atomically(path, FORMATS[name](found))


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
                file.write(markdown(found.rows, found.totals, most_bytes=SUMMARY_BYTES) + "\n")
        except OSError as error:
            say(f"avo: no summary of the job: {error}")
    if environment.get("GITHUB_ACTIONS") == "true":
        workspace = Path(environment.get("GITHUB_WORKSPACE", found.rootdir))
        if lines := commands(found.rows, found.totals, rootdir=found.rootdir, workspace=workspace):
            say("\n".join(lines))
