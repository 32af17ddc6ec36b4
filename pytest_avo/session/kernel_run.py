"""What every mode is to pytest: a run over kernel files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.assessor import Assessor
from pytest_avo.session.selection import Selection
from pytest_avo.session.surroundings import tell_spins


class KernelRun(ABC):
    """A run in one mode. A mode says what is collected of a kernel file; the rest is for those that have results."""

    selection: Selection

    @abstractmethod
    def header(self) -> str:
        """One line: what is run, and where."""

    @abstractmethod
    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        """What collects the items of a kernel file."""

    def tell(self, worker: dict[str, object]) -> None:  # noqa: B027
        """Tell one of xdist's workers, by its workerinput, what it could not find out by itself."""

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:  # noqa: B027 - not every mode has results
        """Put an item's result on its report, in the process that ran it."""

    def keep(self, report: pytest.TestReport) -> None:  # noqa: B027
        """Keep the result that a report carries."""

    def table(self) -> Iterable[Line]:
        """The lines at the end."""
        return ()

    def exit_status(self, status: int) -> int:
        """What the run ends with, where pytest would end with `status`; in the controller alone."""
        return status

    def leave(self) -> None:  # noqa: B027
        """Write what outlives the run; the controller alone."""

    def close(self) -> None:  # noqa: B027
        """End what was started."""


class MeasuredRun(KernelRun):
    """A run that has kernels evaluated."""

    def __init__(self, assessor: Assessor) -> None:
        self.assessor = assessor

    def tell(self, worker: dict[str, object]) -> None:
        tell_spins(worker, self.assessor)

    def close(self) -> None:
        self.assessor.close()
