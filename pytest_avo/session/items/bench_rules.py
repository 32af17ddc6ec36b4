"""How the items of a bench are measured: beside the peers and, where there is a gate, beside its baseline."""

from __future__ import annotations

import msgspec

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Verdict, judge
from pytest_avo.gate.gains import Comparand
from pytest_avo.gate.gate import Gate, thorough
from pytest_avo.run.assessor import Assessor
from pytest_avo.session.items.asking import AskingRules
from pytest_avo.session.items.items import KernelItem
from pytest_avo.session.selection import Selection


class BenchRules(AskingRules):
    """Measure what differs from the baseline, or all where there is none."""

    def __init__(self, assessor: Assessor, selection: Selection, gate: Gate | None) -> None:
        super().__init__(assessor, selection)
        self.gate = gate

    def expect(self, comparisons: int) -> None:
        """Judge on the understanding that the run makes so many comparisons, each of which may fail by chance."""
        if self.gate is not None:
            self.gate = self.gate.among(comparisons)

    def why_not_measured(self, item: KernelItem) -> str:
        """It is what it was, and the user did not name the file."""
        if self.gate is None or item.path in self.selection.named or not self.gate.baseline.is_same(item.kernel):
            return ""
        return f"unchanged since {self.gate.baseline.name}"

    def question(self, item: KernelItem) -> EvaluationRequest:
        limit = None if self.gate is None else self.gate.limit(self.case(item))
        return self.request(item.kernel, (item.shape,), limit)

    def verdict(self, item: KernelItem, evaluation: Evaluation) -> Verdict:
        """The verdict beside the baseline, where there is one; what looks too slow is measured once more."""
        verdict = judge(evaluation, item.shape, floor=self.assessor.floor)
        if self.gate is None:
            return verdict
        return self.gate.judge(verdict, self.case(item), evaluation, self.question(item), self.assessor.answers)

    def case(self, item: KernelItem) -> Comparand:
        """What an item compares."""
        return Comparand(item.kernel, item.kernel_name, item.shape, self.selection.suites_of(item.kernel, item.shape))

    def request(self, kernel: Kernel, shapes: tuple[Shape, ...], limit: float | None) -> EvaluationRequest:
        """What to ask about a kernel; beside the baseline, where there is one, until a limit on it is decided."""
        settings = self.assessor.settings
        # A baseline is measured once and compared with many times.
        plan = settings.plan if settings.gate.save is None else thorough(settings.plan)
        plan = msgspec.structs.replace(plan, costs=len(shapes) == 1)  # of items; totals repeat what those have measured
        request = self.assessor.request(kernel, shapes, plan=plan)
        return request if self.gate is None else self.gate.prepared(request, kernel, limit)
