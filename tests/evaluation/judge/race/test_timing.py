"""Races between real kernel processes. What is asserted are ratios with wide margins: the machine may be busy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Timing, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import compare
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.exchange import ArgumentExchange
from pytest_avo.evaluation.arms.faults import ArmFault, KernelFault
from pytest_avo.evaluation.judge.peers import EMPTY, peer
from pytest_avo.evaluation.judge.race import call_costs, warm_up
from pytest_avo.evaluation.judge.race import timing as timing_module
from pytest_avo.evaluation.judge.race.aftermath import Aftermath, Suspicion
from pytest_avo.evaluation.judge.race.samples import calls_in_slice
from pytest_avo.evaluation.judge.race.stopping import NOT_FASTER, Stopping
from pytest_avo.evaluation.judge.race.timing import Race
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

SHAPE = shape()
ONCE = kernel("time.sleep(0.01)")
TWICE = kernel("time.sleep(0.02)")
FIVEFOLD = kernel("time.sleep(0.05)")
THRICE = kernel("time.sleep(0.03)")
PEER = "peer"


def race(
    laboratory: Laboratory,
    sources: Mapping[str, str],
    plan: TimingPlan,
    *,
    said: list[str] | None = None,
    launched: Callable[[], None] = lambda: None,
    of: Shape = SHAPE,
) -> Timing:
    """Time arms beside each other on one shape, in new processes for every launch."""

    def launch() -> dict[str, Arm]:
        launched()
        laboratory.end()
        return {name: laboratory.arm(source, name=name) for name, source in sources.items()}

    say = (said if said is not None else []).append
    return Race(shapes=[of], plan=plan, limit_s=PATIENCE_S, seed=3).run(launch, say)[SHAPE.id]


def sooner_or_later(shows: Callable[[], bool]) -> bool:
    """Whether a measurement shows what it is to, of several: on a busy machine one may not."""
    return any(shows() for _ in range(8))


def rounds(timing: Timing) -> list[int]:
    return [len(launch) for launch in timing.seconds[KERNEL]]


@pytest.mark.parametrize(
    ("seconds", "overhead_s", "expected"),
    [
        ((0.001, 0.001), 0.0, 5),
        ((0.0005, 0.001), 0.0001, 13),
        ((0.0005, 0.001), 0.0004, 20),  # the empty call was interrupted
        ((0.0003, 0.008), 0.0, 2),
        ((0.0003, 0.050), 0.0, 1),
        ((0.050, 0.050), 0.0, 1),
    ],
)
def test_a_slice_lasts_for_the_fastest_arm_and_does_not_drag_on_for_the_slowest(
    seconds: tuple[float, float], overhead_s: float, expected: int
) -> None:
    assert calls_in_slice(seconds, overhead_s, slice_s=0.005, place="cpu") == expected


def test_a_kernel_that_takes_several_times_as_long_is_found_to_do_so(confined: Laboratory) -> None:
    plan = TimingPlan(min_rounds=6, max_rounds=6)

    def is_slower() -> bool:
        found = compare(race(confined, {KERNEL: FIVEFOLD, BASELINE: ONCE}, plan), BASELINE)
        return 0.1 < found.ratio < 0.8 and found.ci95[1] < 1

    def is_faster() -> bool:
        found = compare(race(confined, {KERNEL: ONCE, BASELINE: FIVEFOLD}, plan), BASELINE)
        return 1.3 < found.ratio < 10 and found.ci95[0] > 1

    assert sooner_or_later(is_slower)
    assert sooner_or_later(is_faster)


def test_every_arm_is_timed_in_every_round(confined: Laboratory) -> None:
    said: list[str] = []
    plan = TimingPlan(min_rounds=3, max_rounds=6, precision=1e-9)
    timing = race(confined, {KERNEL: ONCE, BASELINE: ONCE, PEER: TWICE}, plan, said=said)
    assert set(timing.seconds) == {KERNEL, BASELINE, PEER}
    assert [len(launch) for launches in timing.seconds.values() for launch in launches] == [6, 6, 6]
    assert all(x > 0.001 for launches in timing.seconds.values() for launch in launches for x in launch)
    assert timing.calls >= 1
    assert said == [f"round {number} of at most 6" for number in range(1, 7)]
    assert timing.stopped == "all 6 rounds done"


@pytest.mark.parametrize(
    ("sources", "reasons"),
    [
        ({KERNEL: THRICE, BASELINE: ONCE}, ("not faster", "hardly can become faster")),
        ({KERNEL: ONCE, BASELINE: THRICE}, ("plainly faster",)),
    ],
)
def test_a_plain_result_stops_the_race_early(
    confined: Laboratory, sources: dict[str, str], reasons: tuple[str, ...]
) -> None:
    def stops_early() -> bool:
        timing = race(confined, sources, TimingPlan(min_rounds=5, max_rounds=40, margin=0.003))
        return timing.stopped in reasons and rounds(timing)[0] < 40

    assert sooner_or_later(stops_early)


def test_narrow_intervals_stop_the_race_early(confined: Laboratory) -> None:
    timing = race(confined, {KERNEL: ONCE, PEER: ONCE}, TimingPlan(min_rounds=5, max_rounds=40, precision=20.0))
    assert (timing.stopped, rounds(timing)) == ("intervals narrow enough", [5])


def test_a_kernel_without_rivals_is_timed_to_the_end(confined: Laboratory) -> None:
    timing = race(confined, {KERNEL: ONCE}, TimingPlan(min_rounds=3, max_rounds=5))
    assert rounds(timing) == [5]


def test_several_launches_are_new_processes_and_none_is_cut_short_by_a_result(confined: Laboratory) -> None:
    launches: list[None] = []
    plan = TimingPlan(min_rounds=2, max_rounds=9, launches=3, precision=5.0)
    timing = race(confined, {KERNEL: THRICE, BASELINE: ONCE}, plan, launched=lambda: launches.append(None))
    assert len(launches) == 3
    assert rounds(timing) == [3, 3, 3]
    assert timing.stopped == "all 9 rounds done"


def test_the_budget_ends_a_race_and_is_shared_by_its_launches(confined: Laboratory) -> None:
    plan = TimingPlan(min_rounds=2, max_rounds=4000, launches=2, budget_s=0.5, precision=1e-9)
    timing = race(confined, {KERNEL: ONCE, BASELINE: ONCE}, plan)
    assert timing.stopped == "time budget of 0.5 s spent"
    assert len(rounds(timing)) == 2
    assert all(1 <= count < 2000 for count in rounds(timing))


def test_what_single_calls_cost_and_what_the_harness_takes_are_measured_beside_the_rounds(
    confined: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_costs, "ENQUEUED_CALLS", 4)
    plan = TimingPlan(min_rounds=2, max_rounds=2, costs=True)
    timing = race(confined, {KERNEL: ONCE, PEER: THRICE, EMPTY: peer(EMPTY).source}, plan)
    assert set(timing.seconds) == set(timing.costs) == {KERNEL, PEER}
    for cost in (timing.costs[PEER], timing.costs[KERNEL]):
        assert 0.008 < cost.host_s < 4
        assert 0.008 < cost.idle_s < 4
    assert 0 < timing.harness_s < 2


def test_a_kernel_that_prepares_for_addresses_is_timed_with_that(confined: Laboratory) -> None:
    """As it would be in a model, whose arguments lie where there is room."""
    source = kernel("time.sleep(0.02 * (q.data_ptr() not in KNOWN)); KNOWN.add(q.data_ptr())") + "\nKNOWN = set()\n"
    plan = TimingPlan(min_rounds=6, max_rounds=6, precision=1e-9)
    timing = race(confined, {KERNEL: source, BASELINE: ONCE}, plan)
    assert sorted(x for launch in timing.seconds[KERNEL] for x in launch)[1] > 0.02, "one place may be known by chance"


def test_kinds_of_inputs_take_turns_and_a_race_ends_with_whole_turns(confined: Laboratory) -> None:
    """The kernel is as fast as the other on usual inputs, and slower where scores spread."""
    made_for_normal = kernel("time.sleep(0.1 if float(q.std()) > 3 else 0.01)")
    plan = TimingPlan(min_rounds=2, max_rounds=7, precision=1e-9)
    turns = msgspec.structs.replace(SHAPE, inputs=("normal", "spread"))
    timing = race(confined, {KERNEL: made_for_normal, PEER: ONCE}, plan, of=turns)
    assert timing.kinds == (("normal", "spread") * 4,)

    def is_slower_on_spread_inputs() -> bool:
        kinds = compare(race(confined, {KERNEL: made_for_normal, PEER: ONCE}, plan, of=turns), PEER).kinds
        return kinds["spread"].ratio < 0.8 * kinds["normal"].ratio

    assert sooner_or_later(is_slower_on_spread_inputs)
    once_narrow = TimingPlan(min_rounds=1, max_rounds=40, precision=20.0)
    timing = race(confined, {KERNEL: ONCE, PEER: ONCE}, once_narrow, of=turns)
    assert rounds(timing) == [4]


def test_a_kind_of_inputs_that_had_no_turn_leaves_no_verdict(confined: Laboratory) -> None:
    turns = msgspec.structs.replace(SHAPE, inputs=("normal", "sink"))
    plan = TimingPlan(min_rounds=1, max_rounds=9, budget_s=0.001)
    timing = race(confined, {KERNEL: ONCE, PEER: ONCE}, plan, of=turns)
    assert timing.too_few == "no round on sink inputs in the time budget of 0.001 s, a verdict takes 5"


def test_a_single_round_says_nothing_and_warming_up_spends_no_budget(confined: Laboratory) -> None:
    slow = kernel("time.sleep(0.6 if calls < 3 else 0.02)")

    def spends_none() -> bool:
        plan = TimingPlan(min_rounds=5, max_rounds=5, budget_s=1.0, precision=1e-9)
        timing = race(confined, {KERNEL: slow, BASELINE: ONCE}, plan)
        return (rounds(timing), timing.too_few) == ([5], "")

    assert sooner_or_later(spends_none)
    confined.end()
    plan = TimingPlan(min_rounds=5, max_rounds=9, budget_s=0.01, precision=1e-9)
    timing = race(confined, {KERNEL: slow, BASELINE: ONCE}, plan)
    assert timing.too_few == "1 round in the time budget of 0.01 s, a verdict takes 5"


LATE = {
    "wrong from some call on": "if calls > 30: return torch.zeros_like(q)",
    "an old answer again": """
global old
if calls > 12: return old
old = honest(q, k, v, causal=causal, scale=scale)
return old
""",
    "an answer kept by address": """
if (key := (q.data_ptr(), k.data_ptr())) not in kept: kept[key] = honest(q, k, v, causal=causal, scale=scale)
return kept[key].clone()
""",
    "an answer kept by a sample": """
if len(kept) > 8: return kept.popitem()[1]
kept[tuple(v[0, 0, :2, 0].tolist())] = out = honest(q, k, v, causal=causal, scale=scale)
return out.clone()
""",
}


@pytest.mark.parametrize("name", LATE)
def test_timed_calls_are_checked_calls(confined: Laboratory, name: str) -> None:
    source = kernel(LATE[name], top="kept = {}")
    with pytest.raises(ArmFault) as error:
        race(confined, {KERNEL: source, BASELINE: kernel()}, TimingPlan(min_rounds=20, max_rounds=40, precision=1e-9))
    assert error.value.arm == KERNEL
    assert str(error.value).endswith("(a timed call)")


# Processes that leave the kernel's own.
BURNERS = """
import mmap, struct
called = mmap.mmap(-1, 8)

def burn():
    while True:
        if time.monotonic() - struct.unpack("d", called[:8])[0] > 0.06:
            time.sleep(0.0002)

for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            burn()
        os._exit(0)
    os.wait()
"""


def test_processes_that_left_the_kernels_own_stand_still_with_it(laboratory: Laboratory) -> None:
    leaving = kernel("time.sleep(0.01); called[:8] = struct.pack('d', time.monotonic())", top=BURNERS)
    working = kernel("end = time.thread_time() + 0.01\nwhile time.thread_time() < end: pass")
    race(laboratory, {KERNEL: leaving, BASELINE: working}, TimingPlan(min_rounds=6, max_rounds=6))


# A stop takes a signal that continues along, so a child sets timers anew for as long as it runs.
CONTINUED = """
import mmap, struct
called = mmap.mmap(-1, 8)

def burn():
    signal.signal(signal.SIGCONT, lambda *_: None)
    libc = ctypes.CDLL(None)
    event = (ctypes.c_byte * 64)()
    struct.pack_into("QiI", event, 0, 0, signal.SIGCONT, 0)
    timers = [ctypes.c_void_p() for _ in range(8)]
    for timer in timers:
        libc.timer_create(1, event, ctypes.byref(timer))
    while True:
        for number, timer in enumerate(timers):
            times = struct.pack("4q", 0, 5_000_000, 0, 1_000_000 * (number + 1))
            libc.timer_settime(timer, 0, times, None)
        end = time.monotonic() + 0.002
        while time.monotonic() < end and time.monotonic() - struct.unpack("d", called[:8])[0] < 0.5:
            pass

if os.fork() == 0:
    burn()
"""


def test_a_process_that_has_itself_continued_is_rejected(laboratory: Laboratory) -> None:
    source = kernel("called[:8] = struct.pack('d', time.monotonic())", top=CONTINUED)
    with pytest.raises(ArmFault, match="while it was to stand still") as error:
        race(laboratory, {KERNEL: source, BASELINE: kernel()}, TimingPlan(min_rounds=20, max_rounds=20))
    assert error.value.arm == KERNEL


def test_a_suspicion_is_put_to_a_trial(confined: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Aftermath, "suspicion", lambda _: Suspicion(SHAPE.id, BASELINE, 0.5))
    timing = race(confined, {KERNEL: ONCE, BASELINE: ONCE}, TimingPlan(min_rounds=5, max_rounds=5))
    assert rounds(timing) == [5]
    assert timing.too_few in (
        "",
        "machine too busy to say whether it left work running (baseline takes 50% longer right after it)",
    )


CLOCKS = {
    "standing": "time.perf_counter = lambda: 0.0",
    "slow": "clock = time.perf_counter\ntime.perf_counter = lambda: clock() / 100",
    "fast": "clock = time.perf_counter\ntime.perf_counter = lambda: clock() * 100",
}


@pytest.mark.parametrize("name", CLOCKS)
def test_a_false_clock_is_rejected(confined: Laboratory, name: str) -> None:
    work = "end = time.thread_time() + 0.04\nwhile time.thread_time() < end: pass"
    sources = {KERNEL: kernel(work, top=CLOCKS[name]), BASELINE: kernel(work)}

    def is_rejected() -> bool:
        """What is let pass is a share of a slice, and those of a busy machine last for many times what was worked."""
        try:
            race(confined, sources, TimingPlan(min_rounds=5, max_rounds=5))
        except ArmFault as error:
            return error.arm == KERNEL and "its process accounts for" in str(error)
        return False

    assert sooner_or_later(is_rejected)


def test_work_put_off_until_after_the_answer_is_not_done_for_free(confined: Laboratory) -> None:
    """The result is filled in by a thread once attention() has returned: copied before that, it is wrong."""
    body = """
    out = torch.zeros_like(q)
    def later():
        time.sleep(1)
        out.copy_(honest(q, k, v, causal=causal, scale=scale))
    threading.Thread(target=later).start()
    return out
    """
    with pytest.raises(ArmFault) as error:
        race(confined, {KERNEL: kernel(body), BASELINE: ONCE}, TimingPlan(min_rounds=5, max_rounds=5))
    assert error.value.arm == KERNEL


def test_a_burner_does_not_slow_its_rivals(confined: Laboratory) -> None:
    """All arms but the one being timed are frozen, whatever they left running."""
    burn = "\n".join(f"if os.fork() == 0:\n    while True: pass  # {n}" for n in range(3))
    work = "for _ in range(40): honest(q, k, v, causal=causal, scale=scale)"
    plan = TimingPlan(min_rounds=8, max_rounds=8)
    sources = {PEER: kernel(work, top=burn), BASELINE: kernel(work), KERNEL: kernel(work)}
    # The two quiet ones do the same work; the burner competes with itself alone.
    assert sooner_or_later(lambda: 0.6 < compare(race(confined, sources, plan), BASELINE).ratio < 1.7)


def test_a_fault_of_another_arm_names_that_arm(confined: Laboratory) -> None:
    with pytest.raises(ArmFault) as error:
        race(confined, {KERNEL: ONCE, PEER: kernel("os._exit(0)")}, TimingPlan(min_rounds=2, max_rounds=2))
    assert (error.value.arm, error.value.shape) == (PEER, SHAPE.id)


@pytest.mark.parametrize(("calls", "stopped"), [(1, ""), (3, ""), (3, "plainly faster"), (3, NOT_FASTER)])
def test_arguments_are_exchanged_in_a_race_wherever_calls_are_still_to_come_unless_the_kernel_is_too_slow(
    confined: Laboratory, monkeypatch: pytest.MonkeyPatch, calls: int, stopped: str
) -> None:
    monkeypatch.setattr(timing_module, "EXCHANGED_SHARE", 0.0)
    monkeypatch.setattr(Stopping, "after_round", lambda *_, **__: stopped)
    monkeypatch.setattr(warm_up, "calls_in_slice", lambda *_, **__: calls)
    monkeypatch.setattr(ArgumentExchange, "fault", lambda *_: KernelFault("rejected", "looked at"))
    plan = TimingPlan(min_rounds=1, max_rounds=1)
    if calls == 1 or stopped == NOT_FASTER:
        assert rounds(race(confined, {KERNEL: kernel()}, plan)) == [1]
    else:
        with pytest.raises(ArmFault, match="looked at"):
            race(confined, {KERNEL: kernel()}, plan)
