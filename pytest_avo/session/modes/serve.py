"""--avo-serve: the side of a spool that has the device. Nothing is collected, and no operator or model is imported."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from pytest_avo import __version__
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.fingerprint import installed_version
from pytest_avo.evaluation.devices.local import devices
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.server import Served, Server
from pytest_avo.report.terminal.ledger import workers
from pytest_avo.report.terminal.status import StatusLine
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.report.text import counted, printable
from pytest_avo.run.settings import Settings
from pytest_avo.session.modes.bench import LAYERS
from pytest_avo.session.reading import read_settings
from pytest_avo.session.start import take_over_workers, usage_errors


class Serving:
    """A session that serves a spool."""

    def __init__(self, config: pytest.Config, settings: Settings, specs: list[str]) -> None:
        assert settings.serve is not None
        self.config = config
        self.settings = settings
        self.specs = specs
        self.folder = SpoolFolder(settings.serve)
        self.folder.make()
        self._device = devices()[0]
        self._served = Served()
        self._failure = ""
        self._tables: list[Line] = []

    @classmethod
    def of(cls, config: pytest.Config) -> Serving:
        """What the user asked for; UsageError where something is wrong, before anything is started."""
        with usage_errors():
            settings = read_settings(config)
            assert settings is not None
            return cls(config, settings, take_over_workers(config))

    def header(self) -> str:
        """One line: what is served, and on what."""
        fingerprint = self._device.fingerprint()
        limit = "until nothing is left" if self.settings.serve_for_s is None else f"{self.settings.serve_for_s:g} s"
        return (
            f"avo: {__version__} (serving {self.folder.path}; {fingerprint.device} x{fingerprint.units}; "
            f"torch {installed_version('torch')}; {limit})"
        )

    def run(self) -> bool:
        """Serve; blocks."""
        start = time.monotonic()
        required = LAYERS if self.settings.sandbox == "require" else ()
        pool = Pool(
            self.specs,
            layers=self.settings.sandbox != "off",
            required=required,
            kind=self._device.fingerprint(),
        )
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        status = StatusLine(reporter)
        try:
            server = Server(self.folder, pool, pool.meet(), workers=len(self.specs), say=self._say)
            self._served = server.served
            server.introduce()
            self._say(f"{server.name} serves {self.folder.path}")
            limit_s = self.settings.serve_for_s
            left_s = math.inf if limit_s is None else limit_s - (time.monotonic() - start)
            server.serve(for_s=left_s, idle=status.tick)
        except (EvaluatorError, OSError) as error:
            self._failure = str(error)
        finally:
            status.clear()
            self._tables = list(workers(pool.work(), wall_s=time.monotonic() - start))
            pool.close()
        return True

    def exit_status(self, found: int) -> int:
        """0 where it ended in order, however much it found to do; 3 where the machine failed."""
        if self._failure or self._served.broken:
            return pytest.ExitCode.INTERNAL_ERROR
        return pytest.ExitCode.OK if found == pytest.ExitCode.NO_TESTS_COLLECTED else found

    def table(self) -> Iterator[Line]:
        """What was served, at the end."""
        served = self._served
        yield from self._tables
        if self._failure:
            yield Line(f"avo: cannot serve: {self._failure}", {"red": True})
            return
        yield Line(
            f"avo: answered {counted(served.requests, 'request')}, {counted(served.evaluations, 'evaluation')}; ended: "
            f"{served.ended or 'interrupted'}; {served.left} left",
            {"bold": True},
        )

    def _say(self, text: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.get_verbosity() >= 0:
            reporter.ensure_newline()
            reporter.write_line(printable(text))
