"""The values that the files of a spool hold."""

from __future__ import annotations

import hashlib
import re

import msgspec

from pytest_avo import __version__
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.fingerprint import Fingerprint


class Introduction(msgspec.Struct, frozen=True):
    """A kind of device that has served the spool: what its first server said of it."""

    version: str
    """Version of pytest-avo on that host."""
    host: str
    fingerprint: Fingerprint
    peers: tuple[str, ...]
    sandbox: str
    """How kernels are confined there."""


class Ask(msgspec.Struct, frozen=True):
    """A request that waits."""

    id: str
    order: int
    """Among requests of one host: the earlier ones are smaller."""
    version: str
    kind: str
    """The kind of device that alone may answer it; see Fingerprint.kind."""
    required: tuple[str, ...]
    """Layers of confinement without which it must not be run."""
    tickets: dict[str, str]
    """Shape id -> name of its answer."""
    request: EvaluationRequest


class SpoolReply(msgspec.Struct, frozen=True):
    """The answer to one shape of a request: its evaluation, or why the evaluator failed."""

    server: str
    evaluation: Evaluation | None = None
    failure: str = ""


class RequestClaim(msgspec.Struct, frozen=True):
    """Who is at work on a request."""

    server: str


def ticket(request: EvaluationRequest, shape: str, *, scope: str, kind: str, turn: int) -> str:
    """The name of the answer to one shape of a request, the same in any process that asks the same.

    scope: the run that asks, since a new run wants new figures; turn: 0 for the first time that a process of the run
    asks this, 1 for the next, since asking again means measuring again. A resumed run begins at 0: it is answered by
    what was measured when the run asked first.
    """
    alone = msgspec.structs.replace(request, number=0, shapes=())
    return digest([__version__, scope, kind, shape, turn, alone])


def digest(value: object) -> str:
    """A name of any value that can be written as JSON."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:24]


def is_ticket(name: str) -> bool:
    """Whether a name is one that `digest` gives."""
    return re.fullmatch(r"[0-9a-f]{24}", name) is not None
