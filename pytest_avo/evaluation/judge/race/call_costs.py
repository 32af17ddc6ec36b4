"""What one eager call costs the host, of every arm of a race: measured beside its rounds, which tell nothing of it.

On a GPU rounds replay CUDA graphs, and so leave out what launching takes. A call from a model's own code pays that: it
shows wherever the device would have been faster than the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pytest_avo.core.evaluation import KERNEL, CallCost
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.judge.peers import EMPTY

TURNS = 9
"""Measurements of every arm, for either figure. The least one counts: a host is interrupted, or has cold caches, but is
never sped up."""
ENQUEUED_CALLS = 32
"""Calls in one measurement of the host's part: few enough for the device's queue to take all launches, up to thirty a
call."""


def call_costs(
    names: Sequence[str],
    *,
    draw: Callable[[int], list[Inputs]],
    ask: Callable[[str, list[Inputs], bool], Slice],
    look_at: Callable[[list[Inputs], torch.Tensor], None],
    most_calls: int,
) -> dict[str, CallCost]:
    """The costs of a call by arm; those of the empty arm are subtracted from all others.

    draw: fresh inputs of so many calls, of which a slice takes most_calls; ask: have an arm make eager calls, all
    enqueued (True) or waited for; look_at: is shown the inputs of a turn and what the kernel returned.
    """
    host = _seconds(names, min(ENQUEUED_CALLS, most_calls), True, draw=draw, ask=ask, look_at=look_at)
    idle = _seconds(names, 1, False, draw=draw, ask=ask, look_at=look_at)
    return {name: CallCost(host_s=host[name], idle_s=idle[name]) for name in names if name != EMPTY}


def _seconds(
    names: Sequence[str],
    calls: int,
    enqueue: bool,
    *,
    draw: Callable[[int], list[Inputs]],
    ask: Callable[[str, list[Inputs], bool], Slice],
    look_at: Callable[[list[Inputs], torch.Tensor], None],
) -> dict[str, float]:
    """Seconds per call of every arm, less those of the empty one."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(TURNS):
        batch, out = draw(calls), torch.empty(0)
        for name in names if turn % 2 else reversed(names):
            found = ask(name, batch, enqueue)
            seconds[name].append(found.seconds / calls)
            if name == KERNEL:
                out = found.outputs()
        look_at(batch, out)
    empty_s = min(seconds[EMPTY]) if EMPTY in seconds else 0.0
    return {name: max(0.0, min(found) - empty_s) for name, found in seconds.items()}
