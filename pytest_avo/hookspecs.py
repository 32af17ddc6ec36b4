"""Hooks that a conftest.py can implement to replace a part of the plugin.

Each says on which thread it is called, what None means and what becomes of an error. All are called in the controller
process and never in an xdist worker, unless it says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_avo.core.kernel import Kernel
    from pytest_avo.core.shape import Shape
    from pytest_avo.core.stats import Interval
    from pytest_avo.core.verdict import Verdict
    from pytest_avo.lineage.records import Attempt
    from pytest_avo.operators.operator import Proposal, Task


@pytest.hookspec(firstresult=True)
def pytest_avo_shapes(config: pytest.Config, kernel: Kernel) -> Sequence[Shape] | None:
    """Choose the shapes on which a kernel is collected. Main thread, also in xdist workers: must be deterministic.

    kernel: the file as text with the literals that it declares; its code is never imported here.

    Return None to leave it to the next implementation. The built-in one takes the suites of --avo-shapes, else those
    that the kernel claims. An error ends the collection, as in any hook of pytest's.
    """


@pytest.hookspec(firstresult=True)
def pytest_avo_propose(config: pytest.Config, task: Task) -> Proposal | None:
    """Propose the next candidate. On a thread of its own; may take hours; `task.stopping` says when to give up.

    With --avo-population it is called for several members at the same time; `task.member` says for which.

    Return None to leave it to the next implementation. The built-in one asks the operator of --avo-operator; if that
    has nothing left to try, the evolution ends. `InvalidInput` (a user's mistake), `OperatorStopped` and
    `BudgetExhausted` end the run in order; so does any other error, with exit status 3. All can be resumed.
    """


@pytest.hookspec
def pytest_avo_generation_finish(
    config: pytest.Config, generation: int, member: int, verdicts: Mapping[str, Verdict]
) -> None:
    """Be told that a generation is over: its items are reported, its promotions decided. Main thread.

    Called for each member of the population whose candidate was evaluated. Nothing is expected in return; an error
    ends the run with exit status 3, and it can be resumed.

    verdicts: shape id -> the candidate's verdict against its parent.
    """


@pytest.hookspec(firstresult=True)
def pytest_avo_promote(config: pytest.Config, attempt: Attempt, confirmed: Interval, floor: float) -> bool | None:
    """Decide whether a correct candidate becomes the incumbent and its source lands in kernels/. Main thread.

    confirmed: log(parent's time / candidate's time), above zero faster, from the confirmation in fresh processes, with
    its one-sided 99% bounds. Where the kernel's file holds another version than the parent, the hook is called once
    more, with the log-ratio to that version.
    floor: the log-ratio below which a difference is noise on this machine today.

    Return None to leave it to the next implementation. The built-in one wants the lower bound above the floor (with
    --avo-accept=match: an estimate of at least zero). An error ends the run with exit status 3; it can be resumed.
    """
