"""Which of a race's arms are new processes."""

from __future__ import annotations

from pytest_avo.core.evaluation import BASELINE, KERNEL, Limits, Subject, TimingPlan
from pytest_avo.evaluation.judge import peers
from tests.evaluation.judge.desk import ONE, Desk
from tests.evaluation.laboratory import kernel

PLAN = TimingPlan(min_rounds=3, max_rounds=3)


def test_kernel_and_incumbent_are_timed_in_new_processes_and_peers_in_those_that_are_there(desk: Desk) -> None:
    arms, limits = desk.laboratory.arms, Limits()

    def pids() -> list[int]:
        sources = {KERNEL: kernel(), BASELINE: kernel(), "torch-sdpa": peers.TORCH_SDPA}
        return [arms.get(name, Subject(name, source), [ONE], limits).pid for name, source in sources.items()]

    desk.examine(kernel(), plan=PLAN, baseline=kernel(), against=("torch-sdpa",))
    *before, peer = pids()
    desk.examine(kernel(), plan=PLAN, baseline=kernel(), against=("torch-sdpa",))
    *again, same = pids()
    assert not set(again) & set(before)
    assert same == peer
    desk.examine(kernel(), plan=PLAN, baseline=kernel(), against=("torch-sdpa",), fresh=True)
    assert not set(pids()) & {*before, *again, peer}
