"""A lineage as a long run leaves it, written by a script: every outcome, islands, predictions, hostile texts."""

from __future__ import annotations

import random
from pathlib import Path

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.events import NoiseFloor, SeedComparison, Spending
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Run, Status
from pytest_avo.lineage.store import Store

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> {{7*7}} ' \" ]]>"
SHAPES = tuple(f"b{b}-h16kv4-q4096-k4096-d128-{mask}-bf16" for b in (1, 2, 4, 8) for mask in ("causal", "full"))
BAD: tuple[Status, ...] = ("incorrect", "crashed", "timeout", "rejected", "unsupported", "failed")
LINES = [f"    x{number} = tl.load(p + {number})  # row {number}, 'text'" for number in range(120)]


def source(number: int) -> str:
    """A kernel of 130 lines, some of which are the attempt's own."""
    changed = [
        line.replace("load", f"load_{number}") if index % 17 == number % 17 else line
        for index, line in enumerate(LINES)
    ]
    return "\n".join(
        [f'"""Kernel {number}. {HOSTILE}"""', "", "def attention(q, k, v, *, causal, scale):", *changed, ""]
    )


def scripted_run(
    path: Path, *, attempts: int, seed: int = 3, members: int = 1, islands: int = 1, ends: bool = True
) -> Run:
    """A run of so many attempts in the lineage at `path`; without `ends` the last one is under way."""
    random.seed(seed)
    with Store.open(path) as store:
        run = store.start_run(
            kernel=f"kernels/{HOSTILE}.py",
            target="cpu",
            operator="agent",
            seed=seed,
            shapes=SHAPES,
            fingerprint=fingerprint(target="cpu", device="Some <b>CPU</b>", units=2),
            settings={"model": HOSTILE, "generations": str(attempts)},
        )
        store.add_event(run.id, NoiseFloor(0.004))
        parents = [_seed(store, run)] * islands
        speed = 1.0
        for number in range(1, attempts + 1):
            member = (number - 1) % members
            island = member % islands
            parent = parents[(island + 1) % islands if number % 40 == 0 else island]
            attempt = _add(
                store, run, number, parent, generation=1 + (number - 1) // members, member=member, island=island
            )
            if number == attempts and not ends:
                break
            status = _end(store, attempt, random.random())
            if status == "promoted":
                speed *= 1.02
                store.add_event(run.id, SeedComparison(speed, speed * 0.99, speed * 1.01, attempt.id))
                parents[island] = attempt
        store.add_event(run.id, Spending(attempts=attempts, tokens_in=12345, cost=1.5, wall_s=3600.0))
    return run


def _seed(store: Store, run: Run) -> Attempt:
    return store.add_attempt(
        run=run.id, generation=0, member=0, parent=None, source=source(0), operator="seed", hypothesis="", predicted={}
    )


def _add(store: Store, run: Run, number: int, parent: Attempt, *, generation: int, member: int, island: int) -> Attempt:
    return store.add_attempt(
        run=run.id,
        generation=generation,
        member=member,
        island=island,
        parent=parent.id,
        source=source(number),
        operator="agent",
        hypothesis=f"Attempt {number} is bound by loads: {HOSTILE}",
        predicted={"geomean": round(1 + random.random() / 10, 3), SHAPES[0]: 1.05},
    )


def _end(store: Store, attempt: Attempt, chance: float) -> Status:
    if chance < 0.3:
        status = random.choice(BAD)
        store.add_evaluations(
            attempt.id, "screen", [Evaluation(SHAPES[0], "incorrect", reason=f"row 7 is off: {HOSTILE}")]
        )
        store.add_outcome(AttemptOutcome(attempt.id, status, HOSTILE, tokens_in=900, cost=0.01, seconds=9.0))
        return status
    gain = random.gauss(0.0, 0.03) if chance < 0.85 else 0.02 + random.random() / 20
    status = (
        "promoted" if chance >= 0.9 else "kept" if chance >= 0.85 else random.choice(("same", "slower", "ambiguous"))
    )
    store.add_evaluations(attempt.id, "screen", [_timed(shape, gain) for shape in SHAPES])
    interval = Interval(gain, gain - 0.01, gain + 0.01)
    confirmed = interval if chance >= 0.85 else None
    store.add_outcome(
        AttemptOutcome(attempt.id, status, "", interval, confirmed, tokens_in=900, cost=0.01, seconds=30.0)
    )
    return status


def _timed(shape: str, gain: float) -> Evaluation:
    rounds = tuple(0.001 * (1 + random.random() / 100) for _ in range(12))
    slower = tuple(each * (1 + gain + random.gauss(0, 0.01)) for each in rounds)
    return Evaluation(shape, "ok", timing=Timing({KERNEL: (rounds,), BASELINE: (slower,)}, calls=1, stopped="enough"))
