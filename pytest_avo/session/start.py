"""The start of a run: from pytest's configuration to the objects that the hooks hand on to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_avo.core.disk.files import prepare
from pytest_avo.core.errors import InvalidInput
from pytest_avo.evaluation.diagnosis.compile import ARCHITECTURES
from pytest_avo.evaluation.judge.peers import peer
from pytest_avo.evaluation.pool.gateway import host_of
from pytest_avo.evaluation.spool.places import SpoolAddress
from pytest_avo.gate.baseline import check_baseline
from pytest_avo.report.page.libraries import check_libraries
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.assessors import assess_by_spool, assess_elsewhere, assess_here
from pytest_avo.run.console import Console
from pytest_avo.run.mode import Mode
from pytest_avo.run.settings import Settings
from pytest_avo.session.kernel_run import KernelRun
from pytest_avo.session.modes.bench import Bench
from pytest_avo.session.modes.compilation import Compilation
from pytest_avo.session.modes.evolve import Evolution
from pytest_avo.session.modes.interpretation import Interpretation
from pytest_avo.session.modes.noise import NoiseRun
from pytest_avo.session.modes.selftest import SelfTest
from pytest_avo.session.outputs import PAGE
from pytest_avo.session.reading import read_settings
from pytest_avo.session.selection import refuse_unsendable
from pytest_avo.session.surroundings import (
    console_of,
    take_over_spool,
    take_over_workers,
    told_spins,
    usage_errors,
    worker_count,
    worker_index,
)

MEASURED: Mapping[Mode, Callable[[pytest.Config, Console, Assessor], KernelRun]] = {
    "bench": Bench,
    "evolve": Evolution,
    "selftest": SelfTest,
    "aa": NoiseRun,
}
"""Modes that run kernels."""
READ: Mapping[Mode, Callable[[pytest.Config, Settings], KernelRun]] = {
    "compile": Compilation,
    "interpret": Interpretation,
}
"""Modes that run none: what they find needs no device."""


def start(config: pytest.Config) -> KernelRun:
    """Read the settings and set up the run; UsageError where something is wrong, before anything is measured."""
    with usage_errors(config):
        give_back_path(config)
        settings = read_settings(config)
        assert settings is not None
        spool = take_over_spool(config, settings)
        # First what can be told at once: to meet a device may take as long as a batch job waits.
        for name in settings.peers or ():
            peer(name)
        if PAGE in settings.files:
            check_libraries("--avo-html")
        if settings.live:
            check_libraries("--avo-live")
        for name, path in settings.files.items():
            prepare(path)
            if twice := [other for other, its in settings.files.items() if its == path and other != name]:
                raise InvalidInput(f"--avo-{name} and --avo-{twice[0]}: expected two files, got {path} for both")
        check_baseline(settings.gate, settings.rootdir)
        run = begin(config, settings, spool)
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = run.selection.default_paths()
        refuse_unsendable(config, [config.rootpath, config.invocation_params.dir, *map(Path, config.args)])
    return run


def begin(config: pytest.Config, settings: Settings, spool: SpoolAddress | None) -> KernelRun:
    """The run of the mode that the user chose; InvalidInput where it has no device to measure on."""
    if settings.mode in READ:
        return READ[settings.mode](config, settings)
    console = console_of(config)
    if spool is not None and not config.option.collectonly:
        assessor = assess_by_spool(settings, console, address=spool)
    elif settings.mode == "evolve" and not config.option.collectonly:
        specs = take_over_workers(config)
        assess = assess_elsewhere if any(host_of(spec) for spec in specs) else assess_here
        assessor = assess(settings, console, specs=specs)
    else:
        assessor = assess_here(settings, console, ordinal=worker_index(config), dealing=worker_count(config))
        assessor.spins = told_spins(config)
    return MEASURED[settings.mode](config, console, assessor)


def give_back_path(config: pytest.Config) -> None:
    """`--avo-compile kernels/sm90` names a path, not a target: argparse cannot tell."""
    value = config.option.avo_compile
    if value is None or value in ARCHITECTURES:
        return
    if not os.path.exists(value.partition("::")[0]):
        raise InvalidInput(f"--avo-compile: expected one of {', '.join(ARCHITECTURES)}, or a path, got {value!r}")
    named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    config.args = [value, *named]
    config.args_source = pytest.Config.ArgsSource.ARGS
    config.option.avo_compile = "sm90"
