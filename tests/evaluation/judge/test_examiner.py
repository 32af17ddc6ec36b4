"""The judge: from a request to the facts about every shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, EvaluationRequest, Limits, Subject, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.battery import first_case
from pytest_avo.evaluation.correctness.inputs import draw
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.judge import peers
from pytest_avo.evaluation.judge.examiner import Examiner
from pytest_avo.evaluation.judge.rates import Rates
from pytest_avo.evaluation.judge.roofline import Roofline
from tests.evaluation.correctness.extensions import everything
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

ONE, TWO = shape(), shape(lengths=(1, 90), causal=False)
PLAN = TimingPlan(min_rounds=3, max_rounds=3)
WRONG_ON_TWO = kernel("if q.shape[2] == 1 and k.shape[2] == 90: return torch.zeros_like(q)")


class Desk:
    """An examiner with what it said and which leases it held, in order."""

    def __init__(self, laboratory: Laboratory, *, roofline: Roofline | None = None) -> None:
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
        claim_alone: bool = False,
    ) -> dict[str, Evaluation]:
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
            claim_alone=claim_alone,
        )
        return {evaluation.shape: evaluation for evaluation in self.examiner.examine(request)}


@pytest.fixture
def desk(confined: Laboratory) -> Iterator[Desk]:
    yield Desk(confined)
    for name in (KERNEL, BASELINE, peers.EMPTY, *peers.PEERS):
        confined.arms.drop(name)


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


def test_what_a_kernel_claims_beside_the_plain_call_is_checked_too(desk: Desk) -> None:
    source = Path(everything.__file__).read_text()
    assert desk.examine(source, shapes=[ONE])[ONE.id].reason == ""
    said = " ".join(desk.said)
    assert "varlen, claimed lengths" in said
    assert "paged, claimed lengths" in said
    wrong = source.replace("k_cache.shape[1]\n", "k_cache.shape[1]\n    causal = True\n")
    found = desk.examine(wrong, shapes=[ONE])[ONE.id]
    assert found.outcome == "incorrect"
    assert "(paged, " in found.reason
    refusing = source.replace("def attention_varlen", "attention_varlen = None\n\n\ndef unused")
    assert desk.examine(refusing, shapes=[ONE])[ONE.id].outcome == "crashed"


def test_a_kernel_may_be_asked_about_its_claim_alone(desk: Desk) -> None:
    wrong_beside = kernel("if q.shape[2] != 48: return torch.zeros_like(q)")
    assert desk.examine(wrong_beside, claim_alone=True)[ONE.id].outcome == "ok"
    assert {line.rpartition(": ")[2] for line in desk.said} == {"normal", "needle, layouts that differ"}
    assert desk.examine(wrong_beside)[ONE.id].outcome == "incorrect"


def test_what_is_done_is_said_case_by_case(desk: Desk) -> None:
    desk.examine(kernel(), shapes=[ONE, TWO])
    assert desk.said[0] == f"checking mine.py on {ONE.id} (1 of 2): normal"
    # What is checked beside them is the same of both, and checked once.
    beside = [line.rpartition(": ")[2] for line in desk.said if TWO.id not in line]
    assert len(desk.said) - len(beside) < len(beside) / 2


def test_seeds_are_fresh_and_draw_the_inputs_again(desk: Desk) -> None:
    """A kernel that remembers the first inputs it met meets the very same when they are drawn from the seed."""
    source = kernel("if calls == 1: print('SUM', float(q.double().sum()), flush=True)\nif calls == 2: os._exit(5)")
    one, two = desk.examine(source)[ONE.id], desk.examine(source)[ONE.id]
    assert one.seed != two.seed
    for evaluation in (one, two):
        inputs = draw(first_case(ONE, Random(evaluation.seed)), generator(evaluation.seed, "cpu"))
        assert float(evaluation.log.split()[1]) == float(inputs.q.double().sum())


def test_a_wrong_shape_is_told_with_where_it_is_wrong(desk: Desk) -> None:
    found = desk.examine(WRONG_ON_TWO, shapes=[ONE, TWO])
    assert found[ONE.id].outcome == "ok"
    assert found[TWO.id].outcome == "incorrect"
    assert found[TWO.id].reason.startswith("max error ")
    assert desk.examine(kernel())[ONE.id].outcome == "ok"


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


def test_a_refusal_of_a_claimed_shape_is_unsupported(desk: Desk) -> None:
    found = desk.examine(kernel("raise NotImplementedError('no')"))[ONE.id]
    assert found.outcome == "unsupported"
    assert found.reason.startswith("raised NotImplementedError: no (line ")
    assert found.reason.endswith("(normal)")


def test_any_error_on_a_claimed_shape_is_a_crash(desk: Desk) -> None:
    again = f"if calls > 1 and q.shape[2] == {ONE.seqlen_q}: raise ValueError('once')"
    found = desk.examine(kernel(again))[ONE.id]
    assert (found.outcome, "needle, layouts that differ" in found.reason) == ("crashed", True)


def test_an_error_that_is_no_refusal_is_a_crash_on_any_shape(desk: Desk) -> None:
    found = desk.examine(kernel(f"if q.shape[2] != {ONE.seqlen_q}: raise ValueError('not mine')"))[ONE.id]
    assert (found.outcome, "ValueError: not mine" in found.reason) == ("crashed", True)


def test_refusing_some_inputs_of_a_claimed_shape_is_a_wrong_answer(desk: Desk) -> None:
    only = f"if q.shape[2] != {ONE.seqlen_q} or float(q.abs().max()) > 40: raise NotImplementedError('too large')"
    found = desk.examine(kernel(only))[ONE.id]
    assert found.outcome == "incorrect"
    assert found.reason.startswith("refuses some inputs of a shape that it answers: raised NotImplementedError: too")


def test_a_shape_that_was_not_claimed_may_be_refused(desk: Desk) -> None:
    only = f"if list(q.shape) != [1, 4, {ONE.seqlen_q}, 64] or k.shape[2] != {ONE.seqlen_kv}: raise NotImplementedError"
    assert desk.examine(kernel(only))[ONE.id].outcome == "ok"


def test_who_refuses_other_shapes_is_asked_about_every_layout_at_the_claimed_one(desk: Desk) -> None:
    only = f"if list(q.shape) != [1, 4, {ONE.seqlen_q}, 64] or k.shape[2] != {ONE.seqlen_kv}: raise NotImplementedError"
    careless = "if v.stride(1) > v.stride(2) and v.is_contiguous(): v = v + 1"
    found = desk.examine(kernel(f"{only}\n{careless}"))[ONE.id]
    assert found.outcome == "incorrect"


def test_a_shape_that_was_not_claimed_must_not_be_answered_wrongly(desk: Desk) -> None:
    careless = f"if q.shape[2] != {ONE.seqlen_q}: return torch.zeros_like(q)"
    found = desk.examine(kernel(careless))[ONE.id]
    assert found.outcome == "incorrect"
    assert found.reason.endswith("-f32)") or "-f32-s" in found.reason


@pytest.mark.parametrize(
    "ignored",
    [
        "causal = False",
        "causal = True",
        "scale = 0.125",
        "k = k[:, :1].expand_as(k)",
    ],
)
def test_an_ignored_argument_is_found_whatever_is_claimed(desk: Desk, ignored: str) -> None:
    assert desk.examine(kernel(ignored))[ONE.id].outcome == "incorrect"


def test_a_hang_in_the_middle_of_a_check_is_a_timeout(desk: Desk) -> None:
    limits = Limits(build=1, check=1, time=1)
    found = desk.examine(kernel("if calls == 4:\n    while True: pass"), limits=limits)[ONE.id]
    assert found.outcome == "timeout"


BURNER = """
def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""


def test_a_kernel_that_works_on_when_it_has_answered_is_rejected(desk: Desk) -> None:
    top = BURNER + "threading.Thread(target=burn, args=(600,), daemon=True).start()"
    found = desk.examine(kernel(top=top), shapes=[ONE, TWO], plan=PLAN, baseline=kernel())
    assert {x.outcome for x in found.values()} == {"rejected"}
    assert all(
        re.fullmatch(r"used [01]\.\d s of CPU time while idle, in every second", x.reason) for x in found.values()
    )


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
        "if row > 60: return torch.zeros_like(q)",
        top="row = 0",
    )
    # Of both shapes, whose slices may be of a single call on a slow machine.
    found = desk.examine(late, shapes=[ONE, TWO], plan=TimingPlan(min_rounds=60, max_rounds=60), baseline=kernel())
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
    found = desk.examine(source, plan=PLAN, baseline=source.replace("calls = 0", "calls = 0  # the other one"))[ONE.id]
    assert found.timing is not None
    slow = {arm: min(seconds[0]) + found.timing.harness_s > 0.25 for arm, seconds in found.timing.seconds.items()}
    assert slow[KERNEL] == slow[BASELINE]


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
    right = Desk(bare, roofline=Roofline(here, place="cpu", measure=lambda: fast)).examine(kernel(), plan=plan)
    timing = right[ONE.id].timing
    assert timing is not None
    assert 0 < timing.least_s < min(timing.seconds[KERNEL][0])
    for name in (KERNEL, peers.EMPTY):
        bare.arms.drop(name)
