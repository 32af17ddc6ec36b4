"""An examiner at work on kernels of tests, in processes of the laboratory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Limits, Subject, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.judge.examiner import Examiner
from pytest_avo.evaluation.judge.roofline import Roofline
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

ONE, TWO = shape(), shape(lengths=(1, 90), causal=False)
WRONG_ON_TWO = kernel("if q.shape[2] == 1 and k.shape[2] == 90: return torch.zeros_like(q)")


class Desk:
    """An examiner with what it said and which leases it held, in order."""

    def __init__(self, laboratory: Laboratory, *, roofline: Roofline | None = None, spins: bool = False) -> None:
        self.said: list[str] = []
        self.leases: list[str] = []
        self.laboratory = laboratory
        self.examiner = Examiner(
            laboratory.arms,
            lease=self._lease,
            say=self.said.append,
            worker="gw0",
            device="Some CPU",
            roofline=roofline,
            spins=spins,
        )

    @contextmanager
    def _lease(self, exclusive: bool) -> Iterator[float]:
        self.leases.append("alone" if exclusive else "shared")
        yield 2.0 if exclusive else 0.5

    def examine(
        self,
        source: str,
        *,
        shapes: Sequence[Shape] = (ONE,),
        plan: TimingPlan | None = None,
        baseline: str | None = None,
        against: tuple[str, ...] = (),
        fresh: bool = False,
        may_lack_baseline: bool = False,
        limits: Limits | None = None,
        claim_alone: bool | None = None,
        brief: bool = False,
        known_right: bool = False,
    ) -> dict[str, Evaluation]:
        """What is timed is asked about its claim alone, where nothing else is said: tests of timing are of that."""
        request = EvaluationRequest(
            number=1,
            subject=Subject("mine.py", source),
            shapes=tuple(shapes),
            limits=limits or Limits(build=PATIENCE_S, check=PATIENCE_S, time=PATIENCE_S),
            plan=plan,
            baseline=Subject("incumbent", baseline) if baseline else None,
            peers=against,
            fresh=fresh,
            may_lack_baseline=may_lack_baseline,
            claim_alone=plan is not None if claim_alone is None else claim_alone,
            brief=brief,
            known_right=known_right,
        )
        return {evaluation.shape: evaluation for evaluation in self.examiner.examine(request)}
