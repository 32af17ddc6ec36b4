"""The judge: from a request to the facts about every shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import BASELINE, KERNEL, EvaluationRequest, Limits, Subject, Timing, TimingPlan
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.faults import ArmFault, Suspected
from pytest_avo.evaluation.correctness.battery import first_case
from pytest_avo.evaluation.correctness.inputs import draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.rates import Rates
from pytest_avo.evaluation.judge import peers
from pytest_avo.evaluation.judge.race.timing import Race
from pytest_avo.evaluation.judge.roofline import Roofline
from tests.evaluation.judge.desk import ONE, TWO, WRONG_ON_TWO, Desk
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

PLAN = TimingPlan(min_rounds=3, max_rounds=3)
LIMITS = Limits(build=PATIENCE_S, check=PATIENCE_S, time=PATIENCE_S)


def test_a_right_kernel_is_right_on_every_shape(desk: Desk) -> None:
    found = desk.examine(kernel(), shapes=[ONE, TWO])
    assert list(found) == [ONE.id, TWO.id]
    for evaluation in found.values():
        assert (evaluation.outcome, evaluation.reason, evaluation.timing) == ("ok", "", None)
        assert (evaluation.worker, evaluation.device) == ("gw0", "Some CPU")
        assert evaluation.build_s > 0
        assert evaluation.check_s > 0
    assert desk.leases == ["shared", "shared"]


def test_importing_a_kernel_is_counted_once_however_many_shapes_it_has(desk: Desk) -> None:
    for _ in range(8):  # on a busy machine the other shape's first call may take longer
        found = desk.examine(kernel(top="import time; time.sleep(1)"), shapes=[ONE, TWO])
        assert found[ONE.id].build_s > 1
        if found[TWO.id].build_s < 1:
            break
    else:
        pytest.fail("it is counted again")


def test_seeds_are_fresh_and_draw_the_inputs_again(desk: Desk) -> None:
    """A kernel that remembers the first inputs it met meets the very same when they are drawn from the seed."""
    source = kernel("if calls == 1: print('SUM', float(q.double().sum()), flush=True)\nif calls == 2: os._exit(5)")
    one, two = desk.examine(source)[ONE.id], desk.examine(source)[ONE.id]
    assert one.seed != two.seed
    for evaluation in (one, two):
        inputs = draw(first_case(ONE, Random(evaluation.seed)), generator(evaluation.seed, "cpu"))
        assert float(evaluation.log.split()[1]) == float(inputs.q.double().sum())


def test_a_kernel_is_timed_only_if_it_is_right_everywhere(desk: Desk) -> None:
    found = desk.examine(WRONG_ON_TWO, shapes=[ONE, TWO], plan=PLAN, baseline=kernel())
    assert [x.timing for x in found.values()] == [None, None]
    assert desk.leases == ["shared", "shared"]


def test_timing_has_the_device_alone_and_all_arms(desk: Desk) -> None:
    found = desk.examine(kernel(), shapes=[ONE, TWO], plan=PLAN, baseline=kernel(), against=("torch-sdpa",))
    assert desk.leases == ["shared", "shared", "alone"]
    for evaluation in found.values():
        assert evaluation.timing is not None
        assert set(evaluation.timing.seconds) == {KERNEL, BASELINE, "torch-sdpa"}
        assert evaluation.time_s > 0
        assert evaluation.waited_s == 0.5 + 2.0 / 2, "for the device: once to be checked, and half of once to be timed"
        assert evaluation.notes == ()


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


BURNER = """
def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""


def test_a_kernel_that_works_on_when_it_has_answered_is_rejected(desk: Desk) -> None:
    top = BURNER + "threading.Thread(target=burn, args=(600,), daemon=True).start()"

    def is_rejected() -> bool:
        found = desk.examine(kernel(top=top), shapes=[ONE, TWO], plan=PLAN, baseline=kernel()).values()
        said = re.compile(r"used [01]\.\d s of CPU time while idle, in every second")
        return all(x.outcome == "rejected" and said.fullmatch(x.reason) for x in found)

    # On a busy machine it may wait for a core during all of a short window.
    assert any(is_rejected() for _ in range(8))


def test_who_is_checked_briefly_is_not_watched_before_it_is_timed(desk: Desk) -> None:
    top = BURNER + "threading.Thread(target=burn, args=(600,), daemon=True).start()"
    found = desk.examine(kernel(top=top), plan=PLAN, baseline=kernel(), brief=True)[ONE.id]
    assert "while idle" not in found.reason


def test_threads_that_wait_and_helpers_that_end_are_honest(desk: Desk) -> None:
    top = BURNER + (
        "event = threading.Event()\n"
        "threading.Thread(target=event.wait, daemon=True).start()\n"
        "threading.Thread(target=burn, args=(0.2,)).start()\n"
        "subprocess.Popen(['sleep', '30'])"
    )
    slow, plan = "time.sleep(0.02)", TimingPlan(min_rounds=12, max_rounds=12)  # goes on for longer than the helper
    found = desk.examine(kernel(slow, top=top), plan=plan, baseline=kernel(slow))[ONE.id]
    assert (found.outcome, found.reason) == ("ok", "")


def test_a_crash_keeps_the_log(desk: Desk) -> None:
    found = desk.examine(kernel("print('last words', flush=True)\nctypes.string_at(0)"))[ONE.id]
    assert found.reason.startswith("process killed by SIGSEGV in build (normal")
    assert "last words" in found.log


def test_a_failed_import_keeps_the_log(desk: Desk) -> None:
    found = desk.examine(kernel(top="import no_such_module"), shapes=[ONE, TWO])
    assert {x.outcome for x in found.values()} == {"crashed"}
    assert all("ModuleNotFoundError" in x.log for x in found.values())


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


def test_the_peer_on_the_cpu_is_a_right_kernel(desk: Desk) -> None:
    wide = shape(heads=(8, 2), lengths=(70, 40), dtype="bf16")
    found = desk.examine(peers.TORCH_SDPA, shapes=[ONE, TWO, wide])
    assert {x.outcome for x in found.values()} == {"ok"}


def test_a_baseline_is_asked_what_the_kernel_is(desk: Desk) -> None:
    """One that never saw what only a check asks for would know that it is the incumbent, and could take its time."""
    source = kernel(
        "checked = checked or not q.transpose(1, 2).is_contiguous()\nif not checked: time.sleep(0.3)",
        top="checked = False",
    ).replace("global calls", "global calls, checked")
    other = source.replace("calls = 0", "calls = 0  # the other one")
    found = desk.examine(source, plan=PLAN, baseline=other, claim_alone=False)[ONE.id]
    assert found.timing is not None
    slow = {arm: min(seconds[0]) + found.timing.harness_s > 0.25 for arm, seconds in found.timing.seconds.items()}
    assert slow[KERNEL] == slow[BASELINE]


def test_what_is_rehearsed_was_checked_before_it_is_a_baseline(desk: Desk) -> None:
    desk.examiner._place = "cuda"  # where a baseline's process stays, and is checked where it is
    arms, source = desk.laboratory.arms, kernel()
    right, other = Subject("incumbent", source), Subject("other", source + "# another")
    request = EvaluationRequest(
        number=1, subject=right, baseline=right, shapes=(ONE, TWO), limits=LIMITS, plan=PLAN, claim_alone=True
    )

    def checked() -> list[bool]:
        return [arms.is_checked(BASELINE, right, shape) for shape in (ONE, TWO)]

    wanted = iter([False, True])
    desk.examiner.rehearse(request, is_wanted=lambda: next(wanted))
    assert checked() == [True, False]
    desk.examiner.rehearse(msgspec.structs.replace(request, baseline=other), is_wanted=lambda: False)
    desk.examiner.rehearse(request, is_wanted=lambda: False)
    assert checked() == [True, True]
    assert desk.leases == ["shared", "shared"]


def test_a_baseline_that_fails_its_rehearsal_is_asked_again(desk: Desk) -> None:
    desk.examiner._place = "cuda"
    wrong = Subject("incumbent", kernel("return torch.zeros_like(q)"))
    request = EvaluationRequest(
        number=1, subject=wrong, baseline=wrong, shapes=(ONE,), limits=LIMITS, plan=PLAN, claim_alone=True
    )
    desk.examiner.rehearse(request, is_wanted=lambda: False)
    assert not desk.laboratory.arms.is_checked(BASELINE, wrong, ONE)
    assert not desk.laboratory.arms.has_another(BASELINE, Subject("any", ""))


def test_onnxs_attention_operator_is_a_right_kernel(desk: Desk) -> None:
    chunk = shape(heads=(4, 2), lengths=(33, 80), causal=True)
    found = desk.examine(peers.PEERS["onnxruntime"], shapes=[ONE, chunk])
    assert {x.outcome: x.reason for x in found.values()} == {"ok": ""}


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
