"""The plugin: hook implementations, each a few lines, nothing else.

Importing this module imports neither torch nor triton nor openai. Without an option that asks for a run only the
options exist: nothing is registered, printed or started.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_avo import hookspecs
from pytest_avo.session.options.choices import is_asked
from pytest_avo.session.options.table import add_options

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter
    from xdist.workermanage import WorkerController

    from pytest_avo.core.kernel import Kernel
    from pytest_avo.core.shape import Shape
    from pytest_avo.core.stats import Interval
    from pytest_avo.operators.operator import Proposal, Task
    from pytest_avo.session.kernel_run import KernelRun
    from pytest_avo.session.modes.bench import Bench
    from pytest_avo.session.modes.evolve import Evolution
    from pytest_avo.session.modes.serve import Serving

NAME = "avo-run"


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    # -n auto of a run that times kernels: a worker per device, not per core.
    option = config.option
    times = option.avo_bench or option.avo_evolve or option.avo_aa or option.avo_serve
    if not times or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    from pytest_avo.evaluation.devices.local import devices

    return len(devices())


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before xdist's own pytest_configure, which is trylast: an evolution takes its -n and --tx over.
    if not is_asked(config):
        return
    if config.option.avo_serve is not None:
        from pytest_avo.session.modes.serve import Serving

        config.pluginmanager.register(ServeHooks(Serving.of(config)), f"{NAME}-serve")
        return
    from pytest_avo.session.modes.bench import Bench
    from pytest_avo.session.modes.evolve import Evolution
    from pytest_avo.session.start import start

    run = start(config)
    config.pluginmanager.register(RunHooks(run), NAME)
    if isinstance(run, Bench):
        config.pluginmanager.register(BenchHooks(run), f"{NAME}-bench")
    if isinstance(run, Evolution):
        config.pluginmanager.register(EvolutionHooks(run), f"{NAME}-evolution")


class NoTests(pytest.File):
    """An ordinary Python file in a run over kernels: nothing is collected from it and it is not imported."""

    def collect(self) -> list[pytest.Item]:
        return []


class RunHooks:
    """Hooks of any run over kernels."""

    def __init__(self, run: KernelRun) -> None:
        self.run = run

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        from pytest_avo.session.screen import fitted

        return fitted(config, self.run.header())

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        from pytest_avo.session.surroundings import usage_errors

        with usage_errors(session.config):
            self.run.selection.check_paths(session.config.args)

    def pytest_report_collectionfinish(self) -> list[str]:
        empty = self.run.selection.is_empty
        return ['avo: no kernels there: a kernel assigns AVO = {"target": ..., "shapes": [...]}'] if empty else []

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        named = parent.session.isinitpath(file_path)
        if file_path in self.run.selection.mistakes:
            from pytest_avo.session.items.unmeasured import MistakenFile

            return MistakenFile.under(parent, path=file_path, reason=self.run.selection.mistakes[file_path])
        chosen = self.run.selection.is_kernel(file_path, named=named)
        return self.run.collector(parent, file_path) if chosen else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Collector:
        collector: NoTests = NoTests.from_parent(parent, path=module_path)
        return collector

    @pytest.hookimpl(trylast=True)
    def pytest_avo_shapes(self, kernel: Kernel) -> Sequence[Shape]:
        return self.run.selection.chosen_shapes(kernel)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.run.attach(item, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if str(report.outcome) != "rerun":  # pytest-rerunfailures': another report of the item follows
            self.run.keep(report)

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str | tuple[str, dict[str, bool]]] | None:
        from pytest_avo.session.items.letters import status

        return status(report)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        for line in self.run.table():
            terminalreporter.write_line(line.text, **line.markup)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.run.close()
        if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
            from pytest_avo.session.outputs import leave

            session.exitstatus = self.run.exit_status(session.exitstatus)
            session.exitstatus = leave(self.run.leave, session)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        self.run.tell(node.workerinput)


class BenchHooks:
    """Hooks of a bench alone."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.bench.add_totals(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self.bench.keep_order(ids)


class ServeHooks:
    """Hooks of a session that serves a spool and collects nothing."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        from pytest_avo.session.screen import fitted

        return fitted(config, self.serving.header())

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> bool:
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        return self.serving.run()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        session.exitstatus = self.serving.exit_status(session.exitstatus)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        for line in self.serving.table():
            terminalreporter.write_line(line.text, **line.markup)


class EvolutionHooks:
    """Hooks of an evolution alone."""

    def __init__(self, evolution: Evolution) -> None:
        self.evolution = evolution

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        return self.evolution.run(session)

    @pytest.hookimpl(trylast=True)
    def pytest_avo_propose(self, task: Task) -> Proposal | None:
        return self.evolution.operator.propose(task)

    @pytest.hookimpl(trylast=True)
    def pytest_avo_promote(self, confirmed: Interval, floor: float) -> bool:
        return self.evolution.accepts(confirmed, floor)

    def pytest_unconfigure(self) -> None:
        self.evolution.close_lineage()
