"""Items that are measured by one question each: asked when its turn comes, or all together by way of a spool."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.signature import flaw
from pytest_avo.run.assessor import Assessor
from pytest_avo.session.items.items import ItemRules, KernelItem
from pytest_avo.session.selection import Selection


class AskingRules(ItemRules):
    """Rules of a mode that asks the evaluator once about every item."""

    def __init__(self, assessor: Assessor, selection: Selection) -> None:
        super().__init__(assessor, selection)
        self._asked: dict[KernelItem, Future[Evaluation]] = {}

    @abstractmethod
    def question(self, item: KernelItem) -> EvaluationRequest:
        """What is asked about an item's kernel, which can run here, on its shape."""

    def evaluation(self, item: KernelItem) -> Evaluation:
        if found := item.kernel.fault or flaw(item.kernel.source, item.kernel.claim):
            return Evaluation(shape=item.shape.id, outcome="crashed", reason=found)
        if not self.assessor.is_spooled:
            return self.assessor.answers(self.question(item))[item.shape.id]
        if item not in self._asked:
            self._ask_all(item.session.items)
        return self.assessor.wait(self._asked[item])

    def _ask_all(self, items: Sequence[pytest.Item]) -> None:
        """Put the questions of all items into the spool: each journey there and back may take minutes."""
        for item in items:
            if not isinstance(item, KernelItem) or item.kernel.fault or item in self._asked:
                continue
            if not self.assessor.why_not_here(item.kernel) and not self.why_not_measured(item):
                request = self.question(item)
                self._asked[item] = self.assessor.evaluator_on(request.target).submit(request)[item.shape.id]
