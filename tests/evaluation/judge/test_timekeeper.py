"""What becomes of a timing where an arm fails, or is faster than can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import BASELINE, KERNEL, Timing, TimingPlan
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.faults import ArmFault, Suspected
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.rates import Rates
from pytest_avo.evaluation.judge import peers
from pytest_avo.evaluation.judge.race.timing import Race
from pytest_avo.evaluation.judge.roofline import Roofline
from tests.evaluation.judge.desk import ONE, TWO, Desk
from tests.evaluation.laboratory import Laboratory, kernel

PLAN = TimingPlan(min_rounds=3, max_rounds=3)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("def (", "SyntaxError"),
        ("raise RuntimeError('no compiler')", "no compiler"),
        (kernel().replace("def attention", "def attend"), "attention"),
        (kernel("raise ValueError('no')"), "raised ValueError: no"),
        (kernel("return honest(q, k, v, causal=causal, scale=scale).double()"), "dtype is float64"),
        (kernel(top="os._exit(3)"), "exited with status 3"),
        (kernel("ctypes.string_at(0)"), "SIGSEGV"),
    ],
)
def test_a_baseline_that_fails_is_none_and_the_kernel_is_timed_without_it(desk: Desk, broken: str, words: str) -> None:
    plan = TimingPlan(min_rounds=3, max_rounds=40, margin=-0.03)
    for _ in range(2):
        (found,) = desk.examine(kernel(), plan=plan, baseline=broken, may_lack_baseline=True).values()
        assert found.outcome == "ok"
        assert found.timing is not None
        assert {arm: len(rounds[0]) for arm, rounds in found.timing.seconds.items()} == {KERNEL: 3}
        (note,) = found.notes
        assert note.startswith("baseline: ")
        assert words in note


def test_a_kernel_that_fails_while_it_is_timed_fails_there(desk: Desk) -> None:
    # Only the warm-up and the rounds ask for claimed shapes so often in a row.
    late = kernel(
        "global row\n"
        "row = row + 1 if (q.shape[2], k.shape[2]) in ((48, 80), (1, 90)) else 0\n"
        "if row > 120: return torch.zeros_like(q)",
        top="row = 0",
    )
    # Of both shapes, whose slices may be of a single call on a slow machine.
    found = desk.examine(late, shapes=[ONE, TWO], plan=TimingPlan(min_rounds=120, max_rounds=120), baseline=kernel())
    outcomes = sorted(x.outcome for x in found.values())
    assert outcomes == ["incorrect", "ok"]
    assert all(x.timing is None for x in found.values())
    assert any(x.reason.endswith("(a timed call)") for x in found.values())


def test_a_peer_that_fails_is_a_note(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "broken", kernel("os._exit(0)"))
    found = desk.examine(kernel(), plan=PLAN, baseline=kernel(), against=("torch-sdpa", "broken"))[ONE.id]
    assert found.outcome == "ok"
    assert found.timing is not None
    assert set(found.timing.seconds) == {KERNEL, BASELINE, "torch-sdpa"}
    assert found.notes == ("broken: process exited with status 0 in time",)


def test_a_peer_that_does_not_load_is_a_note(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "absent", kernel(top="import no_such_module"))
    found = desk.examine(kernel(), plan=PLAN, against=("absent",))[ONE.id]
    assert found.outcome == "ok"
    assert found.notes[0].startswith("absent: raised ModuleNotFoundError")


def test_an_incumbent_that_fails_is_the_evaluators_failure(desk: Desk) -> None:
    with pytest.raises(EvaluatorError, match="the incumbent failed while it was timed: process exited with status 0"):
        desk.examine(kernel(), plan=PLAN, baseline=kernel("os._exit(0)"))
    assert desk.examine(kernel(), plan=PLAN, baseline=kernel())[ONE.id].timing is not None


def test_an_incumbent_that_fails_once_is_timed_again(desk: Desk) -> None:
    body = 'if not os.path.exists("tried"): os.close(os.open("tried", os.O_CREAT)); os._exit(0)'
    found = desk.examine(kernel(), plan=PLAN, baseline=kernel(body))[ONE.id]
    assert found.timing is not None
    assert any(note.endswith("; it was timed again") for note in found.notes)


SUSPECTED = Suspected("rejected", "used 1.8 ms of processor time while it was to stand still")


def suspect(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Have the kernel be suspected in so many races, as a machine whose cores are taken away may have it."""
    run, left = Race.run, [None] * times

    def suspecting(race: Race, launch: Callable[[], dict[str, Arm]], say: Callable[[str], None]) -> dict[str, Timing]:
        found = run(race, launch, say)
        if left:
            left.pop()
            raise ArmFault(KERNEL, ONE.id, SUSPECTED)
        return found

    monkeypatch.setattr(Race, "run", suspecting)


def test_a_kernel_that_is_suspected_once_is_timed_again_in_a_new_process(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect(monkeypatch, times=1)
    found = desk.examine(kernel(), plan=PLAN, baseline=kernel())[ONE.id]
    assert found.outcome == "ok"
    assert found.timing is not None
    assert f"{KERNEL}: {SUSPECTED.reason}; it was timed again" in found.notes


def test_a_kernel_that_is_suspected_twice_is_rejected(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    suspect(monkeypatch, times=2)
    found = desk.examine(kernel(), plan=PLAN, baseline=kernel())[ONE.id]
    assert (found.outcome, found.reason, found.timing) == ("rejected", SUSPECTED.reason, None)


def test_a_time_beyond_what_the_device_can_do_is_rejected(
    bare: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "slow"))
    here = CpuDevice().fingerprint()
    slow = Rates(here, {"f32": 1.0, "bf16": 1.0, "f16": 1.0}, 1.0)
    fast = Rates(here, {"f32": 1e12, "bf16": 1e12, "f16": 1e12}, 1e12)
    plan = TimingPlan(min_rounds=2, max_rounds=2)
    rejected = Desk(bare, roofline=Roofline(here, place="cpu", measure=lambda: slow)).examine(kernel(), plan=plan)
    assert rejected[ONE.id].outcome == "rejected"
    assert "it multiplies 1e-12 TFLOP/s" in rejected[ONE.id].reason
    for name in (KERNEL, peers.EMPTY):
        bare.arms.drop(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fast"))
    idle = Desk(bare, roofline=Roofline(here, place="cpu", measure=lambda: fast), spins=True)
    timing = idle.examine(kernel(), plan=plan)[ONE.id].timing
    assert timing is not None
    assert timing.spins, "as threads do here"
    assert 0 < timing.least_s < min(timing.seconds[KERNEL][0])
    for name in (KERNEL, peers.EMPTY):
        bare.arms.drop(name)
