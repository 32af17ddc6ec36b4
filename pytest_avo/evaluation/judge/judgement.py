"""Judgements of outputs, made on a second thread while the judge draws what it will ask next.

Nothing else may run while a kernel answers: it has all cores. Between two questions only the judge works, and one core
would idle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from random import Random

import torch

from pytest_avo.core.evaluation import BASELINE, KERNEL
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.faults import ArmFault, KernelFault
from pytest_avo.evaluation.correctness.correctness import sampled_fault
from pytest_avo.evaluation.correctness.cross_check import Group, plain_outputs, slice_fault
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.devices.second_core import Deferred
from pytest_avo.evaluation.judge.peers import EMPTY


class DeferredJudgement:
    """At most one at a time. Whoever asks a kernel anything has to `settle` first."""

    def __init__(self, place: str) -> None:
        """place: kind of torch device, "cpu" or "cuda". A GPU judges outputs itself: there nothing is put off."""
        self._place = place
        self._pending: Deferred[None] | None = None

    def begin(self, judge: Callable[[], None]) -> None:
        """Have outputs judged, which raises where they are wrong: here, or by the next `settle`."""
        self.settle()
        if self._place == "cpu":
            self._pending = Deferred(judge)
        else:
            judge()

    def settle(self) -> None:
        """Wait until what was begun is known; raises what that did."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def forget(self) -> None:
        """Wait for what was begun, whatever it finds: something else was found before."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.forget()


def rival_of(arms: Iterable[str]) -> str:
    """Whose outputs the kernel's are compared with, or "": an incumbent, which may share its faults, comes last."""
    rivals = sorted(set(arms) - {KERNEL, EMPTY}, key=lambda name: (name == BASELINE, name))
    return rivals[0] if rivals else ""


def look_at_slice(
    shape: Shape,
    batch: list[Inputs],
    out: torch.Tensor,
    other: torch.Tensor | None = None,
    *,
    random: Random,
    groups: Collection[Group] = (),
) -> None:
    """Check the outputs of a timed slice: all of them beside a rival's, or torch's, and some rows that chance picks.

    groups: those with unusual inputs. ArmFault where one is wrong.
    """
    chosen = random.randrange(len(batch))
    found = slice_fault(batch, out, plain_outputs(batch) if other is None else other, groups=groups, random=random)
    found = found or sampled_fault(batch[chosen], out[chosen], random)
    if found:
        raise ArmFault(KERNEL, shape.id, KernelFault("incorrect", f"{found} (a timed call)"))
