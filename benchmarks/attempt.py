"""Where the time of an attempt goes: candidates on a kernel of tunables, judged as an evolution does, part by part.

    python benchmarks/attempt.py [CANDIDATE...]

A candidate is `itself`, or changes of literals as in SOFTMAX='"fused"',BLOCK_Q=128; three are tried where none is
named. Each is screened beside kernels/cpu/quickstart.py as it stands, confirmed if that finds it faster, and compared
with it once more as the best kernel is at the end of a run. The judge runs in this process, its functions wrapped: a
part's seconds are those in which it was the innermost one. Outputs are judged on a second thread, whose processor time
is counted for whatever the first does meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR
from pytest_avo.core.shape import read_suite
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evolution.decision import comparison, confirmation, decide, screening

ROOT = Path(__file__).parents[1]
SEED = (ROOT / "kernels" / "cpu" / "quickstart.py").read_text()
TRIED = ("itself", 'ACCUMULATE="float64"', 'SOFTMAX="fused",BLOCK_Q=128,BLOCK_K=2048')
PEER = "torch-sdpa"


class Parts:
    """Seconds by stage and part, wall and processor, each counted for the innermost part alone."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self._stack = [("other", "other")]
        self._since = (time.perf_counter(), time.process_time())

    def _mark(self) -> None:
        now = (time.perf_counter(), time.process_time())
        kept = self.seconds.setdefault(self._stack[-1], [0.0, 0.0, 0])
        kept[0] += now[0] - self._since[0]
        kept[1] += now[1] - self._since[1]
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str, stage: str = "") -> Iterator[None]:
        """Count what follows for a part, of the stage that it is in unless it begins one."""
        self._mark()
        self._stack.append((stage or self._stack[-1][0], name))
        try:
            yield
        finally:
            self._mark()
            self.seconds[self._stack.pop()][2] += 1

    def wrap(self, owner: Any, function: str, name: str, stage: str = "") -> None:
        """Count the calls of a function for a part."""
        original = getattr(owner, function)

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return original(*args, **kwargs)
            with self.part(name, stage):
                return original(*args, **kwargs)

        setattr(owner, function, counted)

    def table(self) -> str:
        """A line for every part that took a hundredth of a second, stage by stage, and totals; then begin anew."""
        self._mark()
        lines = []
        for stage in dict.fromkeys(stage for stage, _ in self.seconds):
            rows = {part: found for (each, part), found in self.seconds.items() if each == stage}
            wall, cpu = (sum(found[at] for found in rows.values()) for at in (0, 1))
            lines.append(f"  {stage:<28} {wall:7.2f} s  judge's CPU {cpu:6.2f} s")
            for part, (part_wall, part_cpu, count) in sorted(rows.items(), key=lambda row: -row[1][0]):
                if part_wall >= 0.01:
                    lines.append(f"    {part:<26} {part_wall:7.2f} s  judge's CPU {part_cpu:6.2f} s  {int(count):5d}")
        self.seconds.clear()
        return "\n".join(lines)


def instrument(parts: Parts) -> None:
    """Wrap what the judge does."""
    from pytest_avo.evaluation.arms import arm, arms, batch, memory
    from pytest_avo.evaluation.correctness import inputs
    from pytest_avo.evaluation.judge import checks, examiner, judgement, timekeeper
    from pytest_avo.evaluation.judge.race import questions, stopping, timing, warm_up

    stages = [
        (examiner.Examiner, "_check", "check"),
        (examiner.Examiner, "_background_work", "watching it idle"),
        (timekeeper.Timekeeper, "_believed", "roofline"),
        (warm_up.WarmUp, "first_calls", "warm-up"),
        (timing.Race, "_warm_up", "warm-up"),
        (timing.Race, "_rounds", "rounds"),
        (questions.Questions, "require_nothing_running", "aftermath"),
        (questions.Questions, "exchange", "exchanging arguments"),
    ]
    for owner, function, stage in stages:
        parts.wrap(owner, function, "other", stage)
    for function in ("begin", "get", "drop", "settle"):
        parts.wrap(arms.Arms, function, "processes")
    parts.wrap(arm.Arm, "_ask", "the kernels")
    parts.wrap(batch.Batch, "write", "writing arguments")
    parts.wrap(batch.Batch, "output", "copying results")
    parts.wrap(arm.Arm, "require_standstill", "freezing")
    parts.wrap(memory.Memory, "unchanged", "comparing arguments")
    parts.wrap(memory.Memory, "poison", "poisoning")
    parts.wrap(inputs.Stream, "draw", "drawing inputs")
    parts.wrap(checks, "draw_any", "drawing inputs")
    parts.wrap(checks, "all_cases", "choosing cases")
    parts.wrap(judgement.DeferredJudgement, "settle", "waiting for judgements")
    parts.wrap(timing, "mix_timed", "drawing inputs")
    parts.wrap(timing, "Placement", "placing threads")
    parts.wrap(timing.Placement, "settle", "placing threads")
    parts.wrap(stopping.Stopping, "after_round", "statistics")
    parts.wrap(stopping.Stopping, "after_launch", "statistics")


def variant(changes: str) -> str:
    """The seed's text with literals changed; of `itself` with another comment."""
    text = f"{SEED}\n# {changes}\n"
    for change in () if changes == "itself" else re.split(r",(?=[A-Z])", changes):
        name, value = change.split("=")
        text = re.sub(rf"^{name} = \S+", f"{name} = {value}", text, flags=re.MULTILINE)
    return text


def main(candidates: Sequence[str]) -> None:
    """Try the candidates and print a table for each stage of an attempt."""
    device = deal(0)
    os.environ.update(device.environment())
    with tempfile.TemporaryDirectory(prefix="avo-attempt-") as box:
        spawner = Spawner(box=Path(box), environment=device.environment(), warm=["torch"])
        spawner.start(layers=True)
        from pytest_avo.evaluation.arms.arms import Arms
        from pytest_avo.evaluation.judge.examiner import Examiner
        from pytest_avo.evaluation.pool.worker import _be_a_quiet_judge, _roofline

        _be_a_quiet_judge()
        spawner.wait()
        parts = Parts()
        instrument(parts)
        examiner = Examiner(
            Arms(spawner, threads=device.threads, memory_bytes=4 << 30),
            lease=lambda _: contextlib.nullcontext(0.0),
            say=lambda _: None,
            worker="here",
            device=device.fingerprint().device,
            roofline=_roofline(device),
            spins=device.spins,
        )
        try:
            for changes in candidates:
                attempt(lambda request: {x.shape: x for x in examiner.examine(request)}, changes, parts)
        finally:
            spawner.kill()


def attempt(evaluate: Callable[[EvaluationRequest], dict[str, Evaluation]], changes: str, parts: Parts) -> None:
    """One candidate from its screening to the comparison at the end."""
    shapes = tuple(read_suite(ROOT / "shapes" / "quickstart.toml"))
    subject, seed = Subject("candidate", variant(changes)), Subject("incumbent", SEED)

    def asked(what: str, plan: TimingPlan, *, fresh: bool, claim_alone: bool, peers: tuple[str, ...] = ()) -> str:
        request = EvaluationRequest(
            0,
            subject,
            shapes,
            plan=plan,
            baseline=seed,
            peers=peers,
            fixed="" if peers else PEER,
            fresh=fresh,
            claim_alone=claim_alone,
        )
        start = time.perf_counter()
        found = evaluate(request)
        decision = decide(found, shapes, floor=LEAST_FLOOR)
        timings = [x.timing for x in found.values() if x.timing is not None]
        rounds = [f"{sum(map(len, x.seconds['kernel']))} of {x.calls}" for x in timings]
        ratio = decision.gain.exp() if decision.gain else None
        gain = f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else decision.reason
        print(f"{changes}, {what}: {time.perf_counter() - start:.2f} s, {decision.ranking} {gain}")
        print(f"  rounds of calls: {', '.join(rounds)}; {timings[0].stopped if timings else ''}")
        print(parts.table(), flush=True)
        return decision.ranking

    if asked("screening", screening(TimingPlan(), floor=LEAST_FLOOR), fresh=False, claim_alone=True) == "faster":
        asked("confirmation", confirmation(TimingPlan(), floor=LEAST_FLOOR), fresh=True, claim_alone=False)
        asked("comparison", comparison(TimingPlan()), fresh=True, claim_alone=True, peers=(PEER,))


if __name__ == "__main__":
    main(sys.argv[1:] or TRIED)
