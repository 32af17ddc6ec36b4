"""The starter of a race: which of its arms are new processes in a launch, and which are those that were there."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, EvaluationRequest, Subject
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.faults import ArmFault, KernelFault
from pytest_avo.evaluation.judge.peers import EMPTY

LOADING = ""
"""Stands for a shape where an arm failed while it was loaded: it will fail on every shape."""


class Starter:
    """Provides the arms of a race: new processes for each of several launches; of one launch the present ones.

    What nobody is compared with in a verdict, the empty arm and the fixed one, keeps its process. both_new: for one
    launch, too, kernel and baseline are started anew.
    """

    def __init__(
        self, arms: Arms, subjects: Mapping[str, Subject], request: EvaluationRequest, *, both_new: bool
    ) -> None:
        self._arms = arms
        self._subjects = subjects
        self._request = request
        self._both_new = both_new

    def __call__(self) -> dict[str, Arm]:
        plan = self._request.plan
        started: dict[str, Arm] = {}
        kept = {EMPTY, FIXED} if plan is not None and plan.launches > 1 else {EMPTY, FIXED, KERNEL}
        again = plan is not None and (plan.launches > 1 or self._request.fresh)
        anew = [name for name in self._subjects if again and name not in kept]
        if self._both_new:
            anew = list(dict.fromkeys([*anew, KERNEL, BASELINE]))
        self._arms.begin(self._subjects, self._request.shapes, anew=anew)
        for name, subject in self._subjects.items():
            try:
                started[name] = self._arms.get(name, subject, self._request.shapes, self._request.limits)
            except KernelFault as error:
                raise ArmFault(name, self._request.shapes[0].id if name == KERNEL else LOADING, error) from None
        return started
