"""Kernels that a run could not measure, and how each is reported without hiding the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.report.results import Unmeasured
from pytest_avo.session.items.kernel_file import FileItem, file_of
from pytest_avo.session.items.report_values import UNMEASURED

KEY: pytest.StashKey[Unmeasured] = pytest.StashKey()


class MistakenFile(pytest.File):
    """A kernel file in which its user made a mistake: one item, which fails with it."""

    reason: str

    @classmethod
    def under(cls, parent: pytest.Collector, *, path: Path, reason: str) -> MistakenFile:
        file = file_of(cls, parent, path)
        file.reason = reason
        return file

    def collect(self) -> Iterator[pytest.Item]:
        yield MistakenItem.from_parent(self, name="usage")


class MistakenItem(FileItem):
    """Fails with the sentence that says what is wrong."""

    parent: MistakenFile

    def runtest(self) -> None:
        fail(self, InvalidInput(self.parent.reason))


def fail(item: pytest.Item, error: InvalidInput | EvaluatorError) -> None:
    """End an item that cannot be measured: by its user's mistake, or by the machine's failure."""
    is_machine = isinstance(error, EvaluatorError)
    kernel = Path(item.nodeid.partition("::")[0]).as_posix()
    item.stash[KEY] = Unmeasured(kernel, item.name, str(error), is_machine=is_machine)
    # Not pytest.fail, which pytest would show after the error that it is raised for.
    raise pytest.fail.Exception(f"{'evaluator' if is_machine else 'usage'}: {error}", pytrace=False) from None


def attach_unmeasured(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on an item's report why it was not measured."""
    if report.failed and report.when != "teardown" and (found := item.stash.get(KEY, None)) is not None:
        UNMEASURED.put(report, found)
