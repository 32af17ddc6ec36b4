"""The judge: from a request to the facts about every shape."""

from __future__ import annotations

import re
from random import Random

import msgspec
import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, EvaluationRequest, Limits, Subject, TimingPlan
from pytest_avo.evaluation.correctness.battery import first_case
from pytest_avo.evaluation.correctness.inputs import draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.judge import peers
from tests.evaluation.judge.desk import ONE, TWO, WRONG_ON_TWO, Desk
from tests.evaluation.laboratory import PATIENCE_S, kernel, shape

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
