"""What a controller and a worker of a pool say to each other: JSON messages, each with a tag, in both directions."""

from __future__ import annotations

import msgspec

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.shape import Shape


class WorkerConfig(msgspec.Struct, frozen=True):
    """What the controller tells a worker at the start."""

    worker: str
    layers: bool
    """Confine kernels by all that the machine offers."""
    device: int = 0
    """Ordinal among the workers of its host, which deal the host's devices among themselves."""
    target: str = ""
    """The kind of device that is dealt; "" for the one that the host is for."""
    workers: int = 1
    """How many there are on its host, which share its cores where nothing is timed."""
    dealing: int = 1
    """How many deal its host's devices, those of other sessions of one pytest-xdist run too: they share the memory."""
    spins: bool | None = None
    """Whether threads of kernels on a CPU spin where they wait for each other; None: as the worker finds its host."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A worker is ready: who it is, what it runs kernels on, and how they are confined there."""

    host: str
    pid: int
    device: str
    fingerprint: Fingerprint
    peers: tuple[str, ...]
    """The peers that its kind of device offers."""
    sandbox: str
    looks_ahead: bool = False
    """Whether it does something for requests that it is told of before they are asked."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """What a worker is doing at the moment, in a few words; "" is but a sign of life."""

    number: int
    text: str


class ShapeDone(msgspec.Struct, frozen=True, tag="answer"):
    """One finished shape of request `number`."""

    number: int
    evaluation: Evaluation


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """All shapes of request `number` are answered."""

    number: int


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The evaluator, not the kernel, failed on request `number`."""

    number: int
    reason: str


class Evaluate(msgspec.Struct, frozen=True, tag="evaluate"):
    """Answer a request, the only one at the time."""

    request: EvaluationRequest


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Kernels that will be asked about soon, on shapes: what can be done for them without the device, may be."""

    subjects: tuple[Subject, ...]
    shapes: tuple[Shape, ...]
    claim_alone: bool = False
    """Whether they will be asked about what they claim alone."""
    brief: bool = False
    """Whether of that they will be asked plain calls alone."""
    rehearsal: EvaluationRequest | None = None
    """A request with the baseline of what comes next: one that has nothing else to do may check that meanwhile."""


WorkerOrder = Evaluate | Prepare
"""What a controller tells a worker after the start."""
WorkerMessage = Hello | Progress | ShapeDone | Finished | Failure
