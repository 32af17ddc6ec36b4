"""A run over kernels: how each is evaluated, and what its results add up to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cached_property, partial
from pathlib import Path

import msgspec
import pytest

from pytest_avo import __version__
from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.fingerprint import installed_version
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.noise import stored_noise
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict, judge
from pytest_avo.evaluation.devices.device import DeviceKind
from pytest_avo.evaluation.devices.local import deal, devices
from pytest_avo.evaluation.devices.remote import RemoteDevice
from pytest_avo.evaluation.evaluator import Evaluator, Work
from pytest_avo.evaluation.judge.peers import peer
from pytest_avo.evaluation.linux.sandbox import offered_layers
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.jobs import BatchJobs
from pytest_avo.evaluation.spool.notes import Introduction
from pytest_avo.evaluation.spool.places import Place, choose, introductions
from pytest_avo.gate import store
from pytest_avo.gate.baseline import open_gate
from pytest_avo.gate.gains import Case
from pytest_avo.gate.gate import thorough
from pytest_avo.report.results import Results
from pytest_avo.report.terminal import terminal
from pytest_avo.report.terminal.status import StatusLine
from pytest_avo.report.text import counted, printable
from pytest_avo.run.settings import Settings
from pytest_avo.session.items import KernelFile, KernelItem, attach_row
from pytest_avo.session.outputs import print_apart, tell_github, write_files
from pytest_avo.session.selection import Selection
from pytest_avo.session.tally import Tally
from pytest_avo.session.totals import attach_total, totals

NOISE_FLOOR = 0.01
"""Log-ratio below which two kernels count as the same where no A/A run has measured the noise."""
LAYERS = ("pid namespace", "no network", "landlock", "seccomp", "own mounts")


class Bench:
    """What items of one pytest run share."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.ordinal = worker_index(config)
        self.device: DeviceKind = deal(self.ordinal)
        self.selection = Selection(config, settings, targets=dict.fromkeys((self.device.target, "cpu")))
        self.specs = ["popen"]
        self.tally = Tally()
        self.noise = stored_noise(self.device.fingerprint())
        self.floor = self.noise.floor if self.noise else NOISE_FLOOR
        self.gate = open_gate(settings.gate, settings.rootdir, fingerprint=self.device.fingerprint(), floor=self.floor)
        self.spool: SpoolClient | None = None
        self._evaluators: dict[str, Evaluator] = {}
        for name in self.peers:
            peer(name)

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the peers that kernels are timed beside on this run's own kind of device."""
        return self.peers_on(self.device)

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator of this run's own kind of device, started when it is first wanted."""
        return self.evaluator_on(self.device.target)

    def peers_on(self, device: DeviceKind) -> tuple[str, ...]:
        """Names of the peers that kernels are timed beside on a device: those that the user named, or its own."""
        return device.peers if self.settings.peers is None else self.settings.peers

    def evaluator_on(self, target: str) -> Evaluator:
        """The evaluator of a kind of device, started when it is first wanted."""
        if target not in self._evaluators:
            device = self.device if target == self.device.target else deal(self.ordinal, target)
            self._evaluators[target] = Pool(
                self.specs,
                layers=self.settings.sandbox != "off",
                first_device=self.ordinal,
                kind=device.fingerprint(),
            )
        return self._evaluators[target]

    def device_for(self, kernel: Kernel) -> DeviceKind | None:
        """What a kernel runs on: a device that it is written for, or this run's own; None where there is none."""
        if kernel.claim is None or kernel.claim.target == self.device.target:
            return self.device
        return None if isinstance(self.device, RemoteDevice) else next(iter(devices(kernel.claim.target)), None)

    @cached_property
    def status(self) -> StatusLine:
        """The line that says what is going on; silent where there is no terminal."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        return StatusLine(reporter if self.config.get_verbosity() >= 0 else None)

    def meet_workers(self) -> None:
        """Have kernels evaluated on other hosts: what the workers there run on and offer is what counts then.

        InvalidInput where no worker can be used.
        """
        required = LAYERS if self.settings.sandbox == "require" else ()
        pool = Pool(self.specs, layers=self.settings.sandbox != "off", required=required)
        try:
            hello = pool.meet()
        except EvaluatorError as error:
            pool.close()
            raise InvalidInput(f"--tx: {error}") from None
        self._move_to(RemoteDevice(hello.fingerprint, hello.peers), pool)
        self.confinement = hello.sandbox or "none"

    def meet_spool(self, place: Place) -> None:
        """Have kernels evaluated by way of a spool: the kind of device that has served it is what counts then.

        InvalidInput where none has, and no job can be started to find out.
        """
        folder = SpoolFolder(place.path)
        folder.make()
        jobs = BatchJobs(self.settings.submit) if self.settings.submit else None
        found = introductions(folder)
        if not found and jobs is not None:
            found = self._await_introduction(folder, jobs)
        if not found:
            raise InvalidInput(
                f"--tx spool={place.path}: expected to find there what kind of device it has: run `pytest --avo-serve "
                f"{place.path}` on the machine with the device once, with pytest-avo {__version__}"
            )
        introduction = choose(found, place)
        required = LAYERS if self.settings.sandbox == "require" else ()
        if missing := [layer for layer in required if layer not in introduction.sandbox]:
            raise InvalidInput(f"--avo-sandbox=require: the spool's host does not offer {', '.join(missing)}")
        self.spool = SpoolClient(folder, introduction.fingerprint, required=required, jobs=jobs)
        self._move_to(RemoteDevice(introduction.fingerprint, introduction.peers), self.spool)
        self.confinement = introduction.sandbox or "none"

    def _await_introduction(self, folder: SpoolFolder, jobs: BatchJobs) -> list[Introduction]:
        """Have a job started, and wait until it has said what kind of device it runs on."""
        try:
            while not (found := introductions(folder)):
                for line in jobs.look(is_served=False):
                    self._write(line)
                time.sleep(0.2)
        except EvaluatorError as error:
            raise InvalidInput(str(error)) from None
        finally:
            if not folder.names("devices"):
                jobs.close()
        return found

    def _move_to(self, device: RemoteDevice, evaluator: Evaluator) -> None:
        """Take another device than this machine's for the one that kernels are run on."""
        self.device = device
        self._evaluators[device.target] = evaluator
        self.noise = stored_noise(device.fingerprint())
        self.floor = self.noise.floor if self.noise else NOISE_FLOOR
        if self.gate is not None:
            self.gate.floor = self.floor
        self.selection = Selection(self.config, self.settings, targets=[device.target])

    def say(self, text: str, **markup: bool) -> None:
        """One line of progress, on the terminal of the controller unless it is to be quiet; main thread."""
        if self.config.get_verbosity() >= 0:
            self._write(text, **markup)

    def warn(self, text: str) -> None:
        """One line that a user must see, however quiet the run."""
        self._write(text, red=True)

    def _write(self, text: str, **markup: bool) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            self.status.clear()
            reporter.ensure_newline()
            reporter.write_line(printable(text), **markup)

    def header(self) -> str:
        """One line: what is run, where, and how kernels are confined."""
        fingerprint = self.device.fingerprint()
        parts = [
            self.settings.mode,
            f"{fingerprint.device} x{fingerprint.units}",
            f"torch {installed_version('torch')}",
            f"peers {', '.join(self.peers) or 'none'}",
            *([f"compared with {self.gate.baseline.describe()}"] if self.gate else []),
            f"sandbox {self.confinement}",
            f"noise floor {self.floor:.1%}" + (f" of {self.noise.measured}" if self.noise else " assumed"),
        ]
        return f"avo: {__version__} ({'; '.join(parts)})"

    @cached_property
    def confinement(self) -> str:
        """The layers that hold; InvalidInput where the user requires more than the machine offers."""
        if self.settings.sandbox == "off":
            return "off"
        offered = offered_layers()
        missing = [layer for layer in LAYERS if not any(found.startswith(layer) for found in offered)]
        if missing and self.settings.sandbox == "require":
            raise InvalidInput(f"--avo-sandbox=require: this machine does not offer {', '.join(missing)}")
        return ", ".join(offered) or "none"

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        """What collects the items of a kernel file."""
        return KernelFile.from_kernel(parent, path=path, bench=self)

    def why_not_here(self, kernel: Kernel) -> str:
        """Why a kernel cannot run on this machine, or ""."""
        if self.device_for(kernel) is not None:
            return ""
        assert kernel.claim is not None
        return (
            f"needs {kernel.claim.target}, this machine has {self.device.target} ({self.device.fingerprint().device})"
        )

    # ---- evaluating

    def evaluation(self, item: KernelItem) -> Evaluation:
        """Evaluate an item's kernel on its shape; blocks. EvaluatorError when the machine fails."""
        if item.evaluation is not None:
            return item.evaluation
        if item.pending is not None:
            return self.wait(item.pending)
        if item.kernel.fault:
            return Evaluation(shape=item.shape.id, outcome="crashed", reason=item.kernel.fault)
        return self.answers(self._item_request(item))[item.shape.id]

    def verdict(self, item: KernelItem, evaluation: Evaluation) -> Verdict:
        """The verdict on an item; where there is a gate, beside its baseline, which may take another evaluation."""
        verdict = self.judge(evaluation, item.shape, beside_baseline=item.variant)
        if self.gate is None:
            return verdict
        return self.gate.judge(verdict, self.case(item), evaluation, self._item_request(item), self.answers)

    def why_not_measured(self, item: KernelItem) -> str:
        """Why an item's kernel need not be measured, or "": it is what it was, and the user did not name the file."""
        if self.gate is None or item.path in self.selection.named or not self.gate.baseline.is_same(item.kernel):
            return ""
        return f"unchanged since {self.gate.baseline.name}"

    def _item_request(self, item: KernelItem) -> EvaluationRequest:
        limit = None if self.gate is None else self.gate.limit(self.case(item))
        return self.request(item.kernel, (item.shape,), limit)

    def request(self, kernel: Kernel, shapes: tuple[Shape, ...], limit: float | None) -> EvaluationRequest:
        """What to ask about a kernel; beside the baseline, where there is one, until a limit on it is decided."""
        device = self.device_for(kernel)
        assert device is not None, "why_not_here says so first"
        request = EvaluationRequest(
            number=0,
            subject=Subject(label=kernel.path.name, source=kernel.source),
            shapes=shapes,
            limits=self.settings.limits,
            # A baseline is measured once and compared with many times.
            plan=self.settings.plan if self.settings.gate.save is None else thorough(self.settings.plan),
            peers=self.peers_on(device),
            target=device.target,
        )
        return request if self.gate is None else self.gate.prepared(request, kernel, limit)

    def case(self, item: KernelItem) -> Case:
        """What an item compares."""
        return Case(item.kernel, item.kernel_name, item.shape, self.selection.suites_of(item.kernel, item.shape))

    def answers(self, request: EvaluationRequest) -> dict[str, Evaluation]:
        """Evaluations by shape id; blocks. EvaluatorError when the machine fails."""
        return {shape: self.wait(future) for shape, future in self.evaluator_on(request.target).submit(request).items()}

    def wait(self, future: Future[Evaluation]) -> Evaluation:
        """The future's result; meanwhile the status line says what is being done."""
        while True:
            for line in [line for evaluator in self._evaluators.values() for line in evaluator.news()]:
                self.say(line)
            try:
                result = future.result(timeout=0.25)
            except FutureTimeoutError:
                if future.done():
                    raise
                self.status.tick("; ".join(x.doing() for x in self._evaluators.values()))
            else:
                self.status.clear()
                return result

    def judge(self, evaluation: Evaluation, shape: Shape, *, beside_baseline: bool = True) -> Verdict:
        """The verdict on an evaluation, under the noise floor of this run.

        beside_baseline: False for a seed, which is timed beside itself only to measure the noise.
        """
        verdict = judge(evaluation, shape, floor=self.floor)
        if beside_baseline or verdict.baseline is None:
            return verdict
        return msgspec.structs.replace(verdict, kind="correct", reason="", baseline=None)

    def work(self) -> list[Work]:
        """What each worker did so far; nothing where none was wanted."""
        return [work for evaluator in self._evaluators.values() for work in evaluator.work()]

    def close(self) -> None:
        """End the evaluator."""
        for evaluator in self._evaluators.values():
            evaluator.close()

    # ---- results

    def add_totals(self, items: list[pytest.Item]) -> None:
        """Add the items over several shapes, and tell the gate how many comparisons the run makes."""
        items += totals(items, self)
        if self.gate is not None:
            self.gate.comparisons = len(items)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Put an item's result on its report."""
        attach_row(item, report)
        attach_total(item, report)

    def collect_row(self, report: pytest.TestReport) -> None:
        """Keep the result that a report carries."""
        self.tally.keep(report)

    def table(self) -> Iterator[terminal.Line]:
        """The tables at the end of a bench; an evolution has its own."""
        if self.settings.mode == "bench":
            yield from terminal.results(self.tally.rows, self.tally.totals, verbosity=self.config.get_verbosity())

    def leave(self) -> None:
        """Write and print what the user asked for; controller only."""
        found = Results(self.tally.rows, self.tally.totals, self.device.fingerprint(), self.settings.rootdir)
        write_files(found, self.settings.files)
        if self.settings.mode == "bench":
            if path := self.settings.gate.save:
                self.say(f"stored {counted(store.save(found, path), 'result')} as baseline {path.stem}")
            tell_github(found, os.environ, partial(print_apart, self.config))


def worker_index(config: pytest.Config) -> int:
    """The number of this process among xdist's workers, which deal the devices; 0 where there are none."""
    name = str(getattr(config, "workerinput", {}).get("workerid", ""))
    digits = name.removeprefix("gw")
    return int(digits) if digits.isdecimal() else 0
