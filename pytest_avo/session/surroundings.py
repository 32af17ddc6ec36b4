"""What a run takes from pytest's session: terminal, xdist's workers, their number; and how mistakes are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.spool.places import SpoolAddress, spool_of
from pytest_avo.report.terminal.status import Screen
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings
from pytest_avo.session.options.choices import with_place
from pytest_avo.session.screen import BesideCapture

SPINS = "avo_spins"
"""What xdist's workers are told: whether threads of kernels spin where they wait for each other."""
SPOOLED = ("bench", "evolve", "aa")
"""Modes that can have kernels evaluated by way of a spool."""


@contextlib.contextmanager
def usage_errors(config: pytest.Config) -> Iterator[None]:
    """A user's mistake becomes pytest's usage error: one line, exit status 4."""
    try:
        yield
    except InvalidInput as error:
        raise pytest.UsageError(with_place(config, str(error))) from None


def take_over_spool(config: pytest.Config, settings: Settings) -> SpoolAddress | None:
    """Read a spool from xdist's --tx; xdist itself, which knows none, starts no session then."""
    spool = spool_of(getattr(config.option, "tx", None) or [])
    if spool is None:
        if settings.submit:
            raise InvalidInput("--avo-submit: expected --tx spool=DIR too")
        return None
    if settings.mode not in SPOOLED:
        raise InvalidInput(f"--tx spool={spool.path}: does not go with --avo-{settings.mode}")
    config.option.tx, config.option.dist = [], "no"
    return spool


def take_over_workers(config: pytest.Config) -> list[str]:
    """Read xdist's -n and --tx as gateway specs of evaluation workers; xdist itself starts no session then."""
    if not getattr(config.option, "tx", None):
        return ["popen"]
    from xdist.workermanage import parse_tx_spec_config

    specs = [str(spec) for spec in parse_tx_spec_config(config)]
    config.option.dist = "no"
    return specs


def console_of(config: pytest.Config) -> Console:
    """The terminal of a session; it is there once a session begins."""

    def screen() -> Screen | None:
        found = config.pluginmanager.get_plugin("terminalreporter")
        return None if found is None else BesideCapture(found, config)

    return Console(screen, is_quiet=config.get_verbosity() < 0)


def worker_index(config: pytest.Config) -> int:
    """The number of this process among xdist's workers, which deal the devices; 0 where there are none."""
    name = str(getattr(config, "workerinput", {}).get("workerid", ""))
    digits = name.removeprefix("gw")
    return int(digits) if digits.isdecimal() else 0


def worker_count(config: pytest.Config) -> int:
    """How many workers xdist has; 1 where this process is none of them."""
    return int(getattr(config, "workerinput", {}).get("workercount", 1))


def told_spins(config: pytest.Config) -> bool | None:
    """What xdist's controller found before there were workers; None in that itself, and where it said nothing."""
    found = getattr(config, "workerinput", {}).get(SPINS)
    return None if found is None else bool(found)


def tell_spins(worker: dict[str, object], assessor: Assessor) -> None:
    """Tell one of xdist's workers: they would find each other at work."""
    if assessor.device.target == "cpu" and not assessor.is_remote:
        worker[SPINS] = deal(0, spins=assessor.spins).spins
