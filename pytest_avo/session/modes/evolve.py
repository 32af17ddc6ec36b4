"""--avo-evolve: an evolution in a pytest session, the shapes of each candidate as items on pytest's main thread."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.stats import Interval
from pytest_avo.evaluation.devices.device import DeviceKind
from pytest_avo.evolution import conclusion
from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.evolution.decision import accepts
from pytest_avo.evolution.hooks import Hooks, where
from pytest_avo.evolution.json_result import json_result
from pytest_avo.evolution.loop import Loop, open_campaign
from pytest_avo.evolution.trials import Trial
from pytest_avo.lineage.database import UnreadableLineage
from pytest_avo.operators.catalogue import load_operator
from pytest_avo.operators.entry import OperatorChoices
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, VariationOperator
from pytest_avo.report.results import Results
from pytest_avo.report.rows import ResultRow, with_named_baseline
from pytest_avo.report.terminal import ledger, lineage, terminal
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings
from pytest_avo.session.header import header
from pytest_avo.session.items.items import KernelFile, KernelItem
from pytest_avo.session.items.letters import legend
from pytest_avo.session.items.tally import Tally
from pytest_avo.session.kernel_run import MeasuredRun
from pytest_avo.session.modes.candidates import SEED_PREFIX, EvolutionRules, attach_candidate, candidate_items
from pytest_avo.session.outputs import PAGE, write_files, write_run_page
from pytest_avo.session.screen import columns
from pytest_avo.session.selection import Selection


class EvolvedKernel(Selection):
    """The kernel to evolve: by default the one that the ini file names for a target, `targets` by preference."""

    def __init__(self, config: pytest.Config, settings: Settings, targets: Sequence[str]) -> None:
        super().__init__(config, settings)
        self._targets = targets

    def default_paths(self) -> list[str]:
        named = [self._settings.evolve[target] for target in self._targets if target in self._settings.evolve]
        if not named:
            raise InvalidInput(
                f"--avo-evolve: expected a kernel file, or a line '{self._targets[0]}: PATH' in the ini key avo_evolve"
            )
        path = self._settings.rootdir / named[0]
        if not os.path.exists(path):
            raise InvalidInput(f"ini key avo_evolve: there is no {path}: expected a kernel file")
        return [str(path)]


class Evolution(MeasuredRun):
    """A run that evolves one kernel."""

    def __init__(self, config: pytest.Config, console: Console, assessor: Assessor) -> None:
        super().__init__(assessor)
        self._config = config
        self._settings = assessor.settings
        self._console = console
        own = self.assessor.device
        targets = [own.target] if self.assessor.is_remote else list(dict.fromkeys((own.target, "cpu")))
        self.selection = EvolvedKernel(config, assessor.settings, targets)
        self._rules = EvolutionRules(self.assessor, self.selection)
        self._tally = Tally()
        self._device: DeviceKind = own
        self._loop: Loop | None = None
        self._started = time.monotonic()
        self._complete = False
        self._exit_status: pytest.ExitCode | None = None
        """What the run ends with, where that is not for its tests to say."""

    @cached_property
    def operator(self) -> VariationOperator:
        """What proposes candidates."""
        settings = self._settings
        choices = OperatorChoices(agent=settings.agent, external=settings.external, folder=settings.store)
        return load_operator(settings.operator, choices)

    def accepts(self, confirmed: Interval, floor: float) -> bool:
        """The built-in promotion rule."""
        return accepts(confirmed, floor, accept=self._settings.accept)

    # ---- the loop

    def run(self, session: pytest.Session) -> bool | None:
        """Run the evolution; pytest's own loop runs instead when nothing is to be executed."""
        if session.config.option.collectonly:
            return None
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        items = [item for item in session.items if isinstance(item, KernelItem)]
        try:
            self._loop = self._open(session, items)
            session.testscollected = len(items) * (self._settings.generations * self._settings.population + 1)
            with self._served(self._loop):
                self._loop.run()
            self._complete = True
            if self._loop.is_untimed:
                self._exit_status = pytest.ExitCode.INTERNAL_ERROR
        except InvalidInput as error:
            raise pytest.UsageError(str(error)) from None
        except OperatorStopped as stop:
            self._console.warn(f"{self.operator.name} stopped: {stop}")
            if isinstance(stop, OperatorFailed):
                self._exit_status = pytest.ExitCode.INTERNAL_ERROR
        except (EvaluatorError, OSError, sqlite3.Error) as error:
            self._console.warn(f"the run stops: {_why(error, self._settings.store)}")
            self._exit_status = pytest.ExitCode.INTERNAL_ERROR
        finally:
            # A resumed run that was complete already runs no item, and yet collected those of its seed.
            session.testscollected = max(len(items), len(self._tally.rows))
        return True

    def _served(self, loop: Loop) -> AbstractContextManager[object]:
        """The live page, where the user asked for one."""
        if not self._settings.live:
            return nullcontext()
        from pytest_avo.session.live import LivePage  # what draws is an extra

        page = LivePage(loop.campaign.view)
        self._console.say(f"live page: {page.address}")
        return page

    def _open(self, session: pytest.Session, items: Sequence[KernelItem]) -> Loop:
        files = {item.parent for item in items}
        if len(files) != 1:
            names = ", ".join(sorted(file.nodeid for file in files)) or "none"
            raise InvalidInput(f"--avo-evolve: expected one kernel file, got {names}")
        file, assessor = files.pop(), self.assessor
        device = assessor.device_for(file.kernel)
        if device is None:
            raise InvalidInput(f"{file.path}: {assessor.why_not_here(file.kernel)}")
        self._device = device
        # In the order of their suites: another plugin may have put the items into one of its own.
        present = {item.shape.id for item in items}
        shapes = [shape for shape in self.selection.shapes(file.kernel) if shape.id in present]
        peers = assessor.peers_on(device)
        campaign = open_campaign(
            self._settings, file.kernel, shapes, device, operator=self.operator, peers=peers
        )  # fmt: skip
        screened = campaign.evaluated.of(campaign.incumbent, "screen")
        if before := [x.timing for x in screened.values() if x.timing is not None]:
            assessor.spins = before[0].spins  # a run that is resumed goes on as it began
        return Loop(
            assessor,
            campaign,
            self.operator,
            self._console,
            _hooks(self._config),
            present=lambda trial: self._present(session, file, items, trial),
        )

    def _present(self, session: pytest.Session, file: KernelFile, seed: Sequence[KernelItem], trial: Trial) -> None:
        """Run the items of a screening as pytest tests."""
        assert self._loop is not None, "it is the loop that screens"
        campaign, attempt = self._loop.campaign, trial.candidate.attempt
        items: Sequence[KernelItem] = seed
        floor = self.assessor.floor
        if attempt.parent is not None:
            items = candidate_items(file, trial, campaign.plan.screen, prefix=campaign.prefix(attempt))
            floor = campaign.floor
        self._rules.show(self._loop.trials, trial, floor=floor)
        for item, following in zip(items, [*items[1:], None], strict=True):
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)

    # ---- what is shown

    def header(self) -> str:
        return header(self.assessor, peers=self.assessor.peers_on(self.assessor.device))

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        return KernelFile.under(parent, path=path, rules=self._rules, prefix=SEED_PREFIX)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        attach_candidate(item, report)

    def keep(self, report: pytest.TestReport) -> None:
        self._tally.keep(report)

    def table(self) -> Iterator[Line]:
        """The best kernel's shapes and the lineage, at the end of the run, complete or not."""
        if self._loop is None:
            return
        campaign, consultation = self._loop.campaign, self._loop.consultation
        width = columns(self._config)
        rows = with_named_baseline(self._best_rows(self._loop), "seed" if self._loop.final else "parent")
        # How much faster than the seed it is stands in the closing lines, from all samples together.
        yield from terminal.results(rows, verbosity=self._config.get_verbosity(), width=width, told_apart="seed")
        wall_s = time.monotonic() - self._started
        summary = conclusion.summary(
            campaign,
            wall_s=consultation.ledger.snapshot().wall_s,
            resume_hint="" if self._complete else self._resume_command(),
        )
        yield from legend(self._tally.rows, verbosity=self._config.get_verbosity())
        yield from lineage.lineage(conclusion.attempt_rows(campaign), summary, width=width)
        yield from ledger.workers(self.assessor.work(), wall_s=wall_s)
        if consultation.is_budgeted:
            yield from ledger.ledger(consultation.ledger.summary_rows())

    def _best_rows(self, loop: Loop) -> Sequence[ResultRow]:
        """The shapes of the best kernel: beside the seed, or as it was screened where they were not compared."""
        label = f"::{loop.campaign.prefix(loop.campaign.incumbent)}"
        return loop.final or [row for row in self._tally.rows if label in row.node_id]

    def _resume_command(self) -> str:
        """What continues this run: what the user typed, since model, suites and limits are among it."""
        typed = [os.fspath(argument) for argument in self._config.invocation_params.args]
        return shlex.join(["pytest", *(each for each in typed if each != "--avo-resume"), "--avo-resume"])

    def exit_status(self, status: int) -> int:
        ended_in_order = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        return status if self._exit_status is None or not ended_in_order else self._exit_status

    def leave(self) -> None:
        """Write what the user asked for."""
        if self._settings.files and self._loop is not None:
            campaign, wall_s = self._loop.campaign, self._loop.consultation.ledger.snapshot().wall_s
            facts = Chronicle(campaign.view).facts()
            total = conclusion.summary(campaign, wall_s=wall_s, resume_hint="")
            found = Results(
                self._best_rows(self._loop),
                (),
                self._device.fingerprint(),
                self._settings.rootdir,
                evolution=json_result(facts, campaign.view.run, total),
            )
            files = dict(self._settings.files)
            page = files.pop(PAGE, None)
            write_files(found, files)
            if page is not None:
                write_run_page(facts, page)

    def close_lineage(self) -> None:
        """Tell operators to stop and close the lineage, once all is shown."""
        if self._loop is not None:
            self._loop.close()


def _why(error: Exception, store: Path) -> str:
    """What ended a run that its user did not; what was recorded by then is kept."""
    if isinstance(error, sqlite3.Error) and not isinstance(error, UnreadableLineage):
        return f"{store}: the lineage cannot be written: {error}; what is in it is kept"
    return str(error)


def _hooks(config: pytest.Config) -> Hooks:
    hook = config.hook
    return Hooks(
        propose=lambda task: hook.pytest_avo_propose(config=config, task=task),
        promote=lambda attempt, confirmed, floor: bool(
            _asked(hook.pytest_avo_promote, config=config, attempt=attempt, confirmed=confirmed, floor=floor)
        ),
        finish=lambda generation, member, verdicts: _asked(
            hook.pytest_avo_generation_finish, config=config, generation=generation, member=member, verdicts=verdicts
        ),
    )


def _asked(hook: Callable[..., Any], **told: object) -> Any:
    """What a hook answers; EvaluatorError where a conftest.py's fails, so that the run ends in order, resumable."""
    try:
        return hook(**told)
    except (pytest.exit.Exception, pytest.UsageError):
        raise  # how a hook ends a session
    except Exception as error:
        name = getattr(hook, "name", "")
        raise EvaluatorError(f"the hook {name} failed: {type(error).__name__}: {error}{where(error)}") from error
