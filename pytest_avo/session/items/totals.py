"""Items that judge a kernel over several shapes: there is one where the gate has a limit on a geomean."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_avo.core.errors import EvaluatorError, InvalidInput
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.verdict import Total
from pytest_avo.session.items.bench_rules import BenchRules
from pytest_avo.session.items.items import KernelFile, KernelItem
from pytest_avo.session.items.kernel_file import FileItem
from pytest_avo.session.items.report_values import TOTAL
from pytest_avo.session.items.unmeasured import fail


class TotalItem(FileItem):
    """A kernel's geomean against the baseline, over those of its items that are run."""

    parent: KernelFile
    rules: BenchRules
    items: Sequence[KernelItem]
    limit: float
    total: Total | None

    @classmethod
    def over(cls, items: Sequence[KernelItem], rules: BenchRules, *, suite: str, limit: float) -> TotalItem:
        """The item over items of one kernel: all of a run, or those of one suite. limit: a log-ratio."""
        item: TotalItem = cls.from_parent(items[0].parent, name=f"geomean-{suite}" if suite else "geomean")
        item.rules = rules
        item.items = items
        item.limit = limit
        item.total = None
        return item

    def setup(self) -> None:
        """Take what the kernel's other items measured; in a worker that did not run them all, measure them together."""
        rules, first = self.rules, self.items[0]
        try:
            if reason := rules.assessor.why_not_here(first.kernel) or rules.why_not_measured(first):
                self.user_properties.append(("avo.reason", reason))
                pytest.skip(reason)
            evaluations = self._evaluations()
            if bad := [x for x in evaluations.values() if x.outcome != "ok"]:
                pytest.skip(f"no score: {bad[0].shape} is {bad[0].outcome}")
            self.total = self._judged(evaluations)
        except (EvaluatorError, InvalidInput) as error:
            fail(self, error)
        if self.total is None:
            pytest.skip("the baseline has none of the shapes")
        self.user_properties += [("avo.verdict", self.total.kind), ("avo.reason", self.total.reason)]

    def runtest(self) -> None:
        """Fail where the gate does, or where a second measurement found the kernel wrong."""
        assert self.total is not None
        if not self.total.passes:
            pytest.fail(self.total.reason, pytrace=False)

    def _evaluations(self) -> dict[str, Evaluation]:
        known = {item.shape.id: item.evaluation for item in self.items if item.evaluation is not None}
        return known if len(known) == len(self.items) else self.rules.assessor.answers(self._request())

    def _judged(self, evaluations: dict[str, Evaluation]) -> Total | None:
        """The judgement; None where the baseline has none of the shapes."""
        gate = self.rules.gate
        assert gate is not None, "without a gate there is no such item"
        cases = [self.rules.case(each) for each in self.items]
        total = Total(cases[0].name, self.name, "same", "")
        answers = self.rules.assessor.answers
        return gate.judge_total(total, cases, evaluations, self._request(), answers, limit=self.limit)

    def _request(self) -> EvaluationRequest:
        return self.rules.request(self.items[0].kernel, tuple(each.shape for each in self.items), self.limit)


def totals(items: Sequence[pytest.Item], rules: BenchRules) -> list[TotalItem]:
    """The items to add behind those of a run."""
    if rules.gate is None:
        return []
    of_kernel: dict[KernelFile, list[KernelItem]] = {}
    for item in items:
        if isinstance(item, KernelItem) and not item.kernel.fault:
            of_kernel.setdefault(item.parent, []).append(item)
    made = []
    for mine in of_kernel.values():
        for suite, limit in rules.gate.rules.groups(mine[0].kernel_name).items():
            chosen = [item for item in mine if not suite or suite in rules.case(item).suites]
            made += [TotalItem.over(chosen, rules, suite=suite, limit=limit)] if chosen else []
    return made


def attach_total(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put the judgement on the report of the call."""
    if isinstance(item, TotalItem) and item.total is not None and report.when == "call":
        TOTAL.put(report, item.total)
