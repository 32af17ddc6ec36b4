"""Lets a step look into its drafts where kernels are evaluated; nothing of what it shows counts as a measurement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import EvaluationRequest, Look, Subject
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import source_digest
from pytest_avo.evaluation.diagnosis.compile import ARCHITECTURES
from pytest_avo.evaluation.diagnosis.report import compiled_records
from pytest_avo.lineage.events import Fact, Profiled
from pytest_avo.operators.ledger import Ledger
from pytest_avo.operators.operator import OperatorStopped, Unavailable
from pytest_avo.report.terminal import compiled
from pytest_avo.run.assessor import Assessor

PARENT = "incumbent"
"""What the parent is called in a profile."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The tools of a step that look into drafts. Unavailable where one finds nothing; thread-safe."""

    assessor: Assessor
    ledger: Ledger
    stopping: threading.Event
    record: Callable[[Fact], None]
    kernel: Kernel
    """The parent."""
    target: str
    shapes: tuple[Shape, ...]
    """Shapes of the run."""
    step: tuple[int, int]
    """Generation and member."""

    @property
    def has_compile_report(self) -> bool:
        """Whether anything can be said of what kernels for this target compile to."""
        return self.target == "cpu" or self.target in ARCHITECTURES

    def profile(self, source: str, shape: Shape) -> str:
        """What profilers say of a draft, beside the parent where they count; the lineage keeps it."""
        started = time.monotonic()
        text = self._look("profile", source, shape, beside=Subject(PARENT, self.kernel.source))
        seconds = time.monotonic() - started
        self.record(Profiled(*self.step, source_digest(source), shape.id, seconds, text=text))
        return text

    def compile_report(self, source: str, shape: Shape, *, function: str = "") -> str:
        """What a draft compiles to; of a CPU kernel where it runs, of a GPU's here, which needs none."""
        if self.target not in ARCHITECTURES:
            return self._look("compile", source, shape, function=function)
        draft = msgspec.structs.replace(self.kernel, source=source)
        confined = self.assessor.settings.sandbox != "off"
        try:
            records = compiled_records(draft, [shape], target=self.target, confined=confined)
        except EvaluatorError as error:
            raise Unavailable(str(error)) from None
        return compiled.as_text(f"{self.kernel.label}::{shape.id}", records)

    def scratch(self, script: str, draft: str) -> str:
        """What a script prints beside a draft, which it imports as `draft`."""
        return self._look("scratch", script, self.shapes[0], beside=Subject("draft", draft))

    def machine(self) -> str:
        """Facts of the machine that evaluates kernels."""
        return self._look("machine", "", self.shapes[0])

    def _look(self, what: Look, source: str, shape: Shape, *, beside: Subject | None = None, function: str = "") -> str:
        if self.stopping.is_set():
            raise OperatorStopped("the run is ending")
        self.ledger.check_time()
        request = EvaluationRequest(
            number=0,
            subject=Subject(self.kernel.label, source),
            shapes=(shape,),
            limits=self.assessor.settings.limits,
            baseline=beside,
            target=self.target,
            look=what,
            function=function,
        )
        found = self.assessor.evaluator_on(request.target).submit(request)[shape.id].result()
        if not found.diagnosis:
            raise Unavailable(found.reason)
        return found.diagnosis
