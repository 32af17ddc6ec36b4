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
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.report.text import counted
from pytest_avo.run.assessors import required_layers
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings
from pytest_avo.session.reading import read_settings
from pytest_avo.session.surroundings import console_of, take_over_workers, usage_errors


class Serving:
    """A session that serves a spool."""

    def __init__(self, settings: Settings, console: Console, specs: list[str]) -> None:
        assert settings.serve is not None
        self._console = console
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
        with usage_errors(config):
            settings = read_settings(config)
            assert settings is not None
            return cls(settings, console_of(config), take_over_workers(config))

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
        pool = Pool(
            self.specs,
            layers=self.settings.sandbox != "off",
            required=required_layers(self.settings),
            kind=self._device.fingerprint(),
        )
        try:
            server = Server(self.folder, pool, pool.meet(), workers=len(self.specs), say=self._console.say)
            self._served = server.served
            server.introduce()
            self._console.say(f"{server.name} serves {self.folder.path}")
            limit_s = self.settings.serve_for_s
            left_s = math.inf if limit_s is None else limit_s - (time.monotonic() - start)
            server.serve(for_s=left_s, idle=self._console.tick)
        except (EvaluatorError, OSError) as error:
            self._failure = str(error)
        finally:
            self._console.clear()
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
