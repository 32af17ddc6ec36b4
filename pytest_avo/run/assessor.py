"""Who evaluates the kernels of a run: its devices and their evaluators, and the noise floor that goes with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.noise import stored_noise
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.devices.device import DeviceKind
from pytest_avo.evaluation.devices.local import devices
from pytest_avo.evaluation.devices.remote import RemoteDevice
from pytest_avo.evaluation.evaluator import Evaluator, Work
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings

NOISE_FLOOR = 0.01
"""Log-ratio below which two kernels count as the same where no A/A run has measured the noise."""


class Assessor:
    """Has kernels evaluated, each on the kind of device that it is written for."""

    def __init__(
        self,
        settings: Settings,
        device: DeviceKind,
        console: Console,
        *,
        start: Callable[[str], Evaluator],
        confinement: str,
        spool: SpoolClient | None = None,
    ) -> None:
        """device: the run's own kind; start: from a target to the evaluator of its kind of device."""
        self.settings = settings
        self.device = device
        self.confinement = confinement
        self.noise = stored_noise(device.fingerprint())
        self.floor = self.noise.floor if self.noise else NOISE_FLOOR
        self.spins: bool | None = None
        """Whether threads of kernels on this CPU spin where they wait for each other; None: as it is found."""
        self._console = console
        self._spool = spool
        self._start = start
        self._starting = threading.Lock()
        self._evaluators: dict[str, Evaluator] = {}

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator of this run's own kind of device, started when it is first wanted."""
        return self.evaluator_on(self.device.target)

    def evaluator_on(self, target: str) -> Evaluator:
        """The evaluator of a kind of device, started when it is first wanted."""
        with self._starting:  # an operator's threads may want it first
            if target not in self._evaluators:
                self._evaluators[target] = self._start(target)
            return self._evaluators[target]

    @property
    def is_remote(self) -> bool:
        """Whether kernels are evaluated on other hosts."""
        return isinstance(self.device, RemoteDevice)

    @property
    def is_spooled(self) -> bool:
        """Whether requests travel by way of a spool."""
        return self._spool is not None

    def peers_on(self, device: DeviceKind) -> tuple[str, ...]:
        """Names of the peers that kernels are timed beside on a device: those that the user named, or its own."""
        return device.peers if self.settings.peers is None else self.settings.peers

    def device_for(self, kernel: Kernel) -> DeviceKind | None:
        """What a kernel runs on: a device that it is written for, or this run's own; None where there is none."""
        if kernel.claim is None or kernel.claim.target == self.device.target:
            return self.device
        return None if self.is_remote else next(iter(devices(kernel.claim.target)), None)

    def why_not_here(self, kernel: Kernel) -> str:
        """Why a kernel cannot run on this machine, or ""."""
        if self.device_for(kernel) is not None:
            return ""
        assert kernel.claim is not None
        return (
            f"needs {kernel.claim.target}, this machine has {self.device.target} ({self.device.fingerprint().device})"
        )

    def request(self, kernel: Kernel, shapes: tuple[Shape, ...], *, plan: TimingPlan) -> EvaluationRequest:
        """What to ask about a kernel that can run here: whether it is right, and how fast beside the peers."""
        device = self.device_for(kernel)
        assert device is not None, "why_not_here says so first"
        return EvaluationRequest(
            number=0,
            subject=Subject(label=kernel.label, source=kernel.source),
            shapes=shapes,
            limits=self.settings.limits,
            plan=plan,
            peers=self.peers_on(device),
            target=device.target,
        )

    def answers(self, request: EvaluationRequest) -> dict[str, Evaluation]:
        """Evaluations by shape id; blocks. EvaluatorError when the machine fails."""
        return {shape: self.wait(future) for shape, future in self.evaluator_on(request.target).submit(request).items()}

    def wait(self, future: Future[Evaluation]) -> Evaluation:
        """The future's result; meanwhile the console says what is being done, and what became of workers."""
        while True:
            for line in [line for evaluator in self._evaluators.values() for line in evaluator.news()]:
                self._console.say(line)
            try:
                result = future.result(timeout=0.25)
            except FutureTimeoutError:
                if future.done():
                    raise
                self._console.tick("; ".join(x.doing() for x in self._evaluators.values()))
            else:
                self._console.clear()
                return result

    def continue_run(self, identity: str) -> None:
        """Take what was answered while the run of that identity, which asks the same again, was away."""
        if self._spool is not None:
            self._spool.continue_run(identity)

    def work(self) -> list[Work]:
        """What each worker did so far; nothing where none was wanted."""
        return [work for evaluator in self._evaluators.values() for work in evaluator.work()]

    def close(self) -> None:
        """End the evaluators."""
        for evaluator in self._evaluators.values():
            evaluator.close()
