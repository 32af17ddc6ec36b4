"""--avo-bench: kernels checked, timed beside their peers and, where the user wants that, beside a baseline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest

from pytest_avo.gate import store
from pytest_avo.gate.baseline import open_gate
from pytest_avo.report.results import Results
from pytest_avo.report.terminal import terminal
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.report.text import counted
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.session.header import header
from pytest_avo.session.items.bench_rules import BenchRules
from pytest_avo.session.items.items import KernelFile, attach_row
from pytest_avo.session.items.letters import legend
from pytest_avo.session.items.tally import Tally
from pytest_avo.session.items.totals import attach_total, totals
from pytest_avo.session.kernel_run import MeasuredRun
from pytest_avo.session.outputs import print_apart, tell_github, write_files
from pytest_avo.session.screen import columns
from pytest_avo.session.selection import Selection


class Bench(MeasuredRun):
    """A run that measures kernels."""

    def __init__(self, config: pytest.Config, console: Console, assessor: Assessor) -> None:
        super().__init__(assessor)
        self._config = config
        self._settings = assessor.settings
        self._console = console
        self.selection = Selection(config, assessor.settings)
        fingerprint, floor = self.assessor.device.fingerprint(), self.assessor.floor
        settings = assessor.settings
        gate = open_gate(settings.gate, settings.rootdir, fingerprint=fingerprint, floor=floor)
        if gate is not None and isinstance(gate.baseline, store.StoredBaseline):
            self.assessor.spins = gate.baseline.spins
        self.rules = BenchRules(self.assessor, self.selection, gate)
        self._tally = Tally()

    def header(self) -> str:
        gate, peers = self.rules.gate, self.assessor.peers_on(self.assessor.device)
        return header(self.assessor, peers=peers, baseline=gate.baseline.describe() if gate else "")

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        return KernelFile.under(parent, path=path, rules=self.rules)

    def add_totals(self, items: list[pytest.Item]) -> None:
        """Add the items over several shapes, and tell the gate how many comparisons the run makes."""
        items += totals(items, self.rules)
        self.rules.expect(len(items))

    def keep_order(self, node_ids: Sequence[str]) -> None:
        """Show results in the order in which they were collected, whichever worker has finished first."""
        self._tally.keep_order(node_ids)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        attach_row(item, report)
        attach_total(item, report)

    def keep(self, report: pytest.TestReport) -> None:
        self._tally.keep(report)

    def table(self) -> Iterable[Line]:
        lines = terminal.results(
            self._tally.rows,
            self._tally.totals,
            verbosity=self._config.get_verbosity(),
            width=columns(self._config),
        )
        return lines + legend(self._tally.rows, verbosity=self._config.get_verbosity())

    def leave(self) -> None:
        """Write and print what the user asked for."""
        settings = self._settings
        found = Results(
            self._tally.rows,
            self._tally.totals,
            self.assessor.device.fingerprint(),
            settings.rootdir,
            self._tally.unmeasured,
        )
        write_files(found, settings.files)
        if path := settings.gate.save:
            self._console.say(f"stored {counted(store.save(found, path), 'result')} as baseline {path.stem}")
        tell_github(found, os.environ, partial(print_apart, self._config))

    def exit_status(self, status: int) -> int:
        return self._tally.exit_status(status)
