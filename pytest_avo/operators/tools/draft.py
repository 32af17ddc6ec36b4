"""The working draft of a step: its text, what its evaluations said, and which of its versions is best.

The draft is held here and nowhere else, so that no conversation that is cut short can lose it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import BASELINE
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.likeness import normalised
from pytest_avo.core.ranking import ONE_SIDED_99, geomean_gain
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import source_digest
from pytest_avo.core.stats import Interval
from pytest_avo.core.verdict import judge
from pytest_avo.lineage.records import Attempt
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.operator import DraftResult, Task
from pytest_avo.operators.tools.edits import Edit
from pytest_avo.operators.tools.tools import Mistake
from pytest_avo.report.text import counted

SMALLEST = "smallest"
"""Stands for the shape that is cheapest to try."""
ALL = "all"
"""Stands for all shapes, as does naming none."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A version of the draft that was evaluated, with all that is known of it."""

    source: str
    results: dict[str, DraftResult]

    def add(self, results: Mapping[str, DraftResult]) -> None:
        """Take results over, by shape. That all calls are right says nothing of the time, which stays."""
        for shape, result in results.items():
            known, found = self.results.get(shape), result.evaluation
            if known is None or known.evaluation.timing is None or found.timing is not None or found.outcome != "ok":
                self.results[shape] = result

    def gain(self, shapes: Sequence[Shape]) -> Interval | None:
        """Geomean over all shapes against the incumbent, a log-ratio; None unless all were timed and are correct."""
        evaluations = {}
        for shape in shapes:
            result = self.results.get(shape.id)
            timing = result.evaluation.timing if result is not None and result.verdict.is_good else None
            if result is None or timing is None or timing.too_few or BASELINE not in timing.seconds:
                return None
            evaluations[shape.id] = result.evaluation
        return geomean_gain(evaluations, shapes, confidence=ONE_SIDED_99)


class Draft:
    """A step's draft, at first the parent's source."""

    def __init__(self, task: Task, memory: LessonMemory | None) -> None:
        self.task = task
        self._memory = memory
        self.parent_text = task.view.source(task.parent.digest)
        self.text = self.parent_text
        self.edits = 0
        self._tried: dict[str, Tried] = {}

    def at(self, text: str) -> Draft:
        """The draft as it reads elsewhere; what was tried under either text is known to both."""
        other = copy.copy(self)
        other.text = text
        return other

    @property
    def is_changed(self) -> bool:
        """Whether it is another program than the parent."""
        return normalised(self.text) != normalised(self.parent_text)

    def accept(self, edit: Edit) -> str:
        """Take an edit over; returns how large the change is, and what is wrong with the new text where something is.

        Not the change itself: whoever made it has just written it.
        """
        self.text = edit.text
        self.edits += 1
        lines = edit.diff.splitlines()[2:]
        added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
        said = f"the draft has {counted(len(self.text.splitlines()), 'line')} now: +{added} -{removed}"
        try:
            self.check()
        except Mistake as mistake:
            return f"{said}\nbut it cannot be evaluated like this: {mistake}"
        return said

    def check(self) -> Kernel:
        """The draft as a kernel; Mistake where it breaks the contract, which costs no evaluation to find out."""
        path = self.task.kernel.path
        try:
            kernel = parse_kernel(self.text, path=path)
        except InvalidInput as error:
            raise Mistake(str(error).replace(str(path), path.name)) from None
        if kernel.fault:
            raise Mistake(kernel.fault)
        claim, parent = kernel.claim, self.task.kernel.claim
        if claim is None:
            raise Mistake("the draft declares no AVO literal: keep the parent's")
        if parent is not None and claim != parent:
            raise Mistake(f"AVO: expected {parent}, as the parent claims, got {claim}")
        return kernel

    def shapes(self, names: Sequence[str]) -> list[Shape]:
        """The shapes of these ids, or SMALLEST, all of them when none or ALL is named; Mistake for an unknown one."""
        known = {shape.id: shape for shape in self.task.shapes}
        smallest = min(self.task.shapes, key=lambda shape: shape.flops)
        names = [] if list(names) == [ALL] else [smallest.id if name == SMALLEST else name for name in names]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or list(known)
                raise Mistake(f"there is no shape {name!r}: expected one of {', '.join(near)}")
        return [known[name] for name in dict.fromkeys(names)] if names else list(known.values())

    def evaluate(self, shapes: Sequence[Shape], *, timed: bool) -> Tried:
        """Evaluate the present text on some shapes; Mistake where its text alone says that it cannot be right.

        What this run has evaluated already, under whatever comments and layout, is answered from the lineage.
        """
        self.check()
        program = normalised(self.text)
        tried = self._tried.setdefault(program, Tried(self.text, {}))
        missing = [shape for shape in shapes if not self._is_known(tried, shape, timed=timed)]
        tried.results.update(self._earlier(missing))
        missing = [shape for shape in missing if not self._is_known(tried, shape, timed=timed)]
        if missing:
            # Under the text that was evaluated first: the lineage finds by text what it has.
            tried.add(self.task.evaluate(tried.source, missing, timed=timed))
        return tried

    def race(self, shapes: Sequence[Shape], *, against: str, label: str, peer: str) -> Mapping[str, DraftResult]:
        """Time the present text anew beside another source, or a peer; nothing that is known is looked up or kept."""
        self.check()
        return self.task.race(self.text, shapes, against=against, label=label, peer=peer)

    @property
    def present(self) -> Tried | None:
        """What is known of the draft as it reads now."""
        return self._tried.get(normalised(self.text))

    def same_as(self) -> Attempt | None:
        """A finished attempt of the run that is the same program."""
        return None if self._memory is None else self._memory.programs.find(self.text)

    def best(self) -> tuple[Tried, Interval] | None:
        """The version that gained most over the parent among those timed and correct on every shape, if any did."""
        gains = [(tried, gain) for tried in self._tried.values() if (gain := tried.gain(self.task.shapes)) is not None]
        parent = normalised(self.parent_text)
        gains = [(tried, gain) for tried, gain in gains if gain.estimate > 0 and normalised(tried.source) != parent]
        return max(gains, key=lambda pair: pair[1].estimate, default=None)

    def _is_known(self, tried: Tried, shape: Shape, *, timed: bool) -> bool:
        result = tried.results.get(shape.id)
        return result is not None and result.evaluation.settles(timed=timed)

    def _earlier(self, shapes: Sequence[Shape]) -> dict[str, DraftResult]:
        """Screenings of a finished attempt that is the same program and had the same parent, by shape."""
        earlier = self.same_as()
        if earlier is None or earlier.parent != self.task.parent.id:
            return {}
        wanted = {shape.id: shape for shape in shapes}
        return {
            each.evaluation.shape: DraftResult(
                each.evaluation, judge(each.evaluation, wanted[each.evaluation.shape], floor=self.task.floor)
            )
            for each in self.task.view.evaluations(earlier.id, "screen")
            if each.evaluation.shape in wanted
        }


def named(source: str) -> str:
    """What a version of a draft is called in answers."""
    return f"draft {source_digest(source)[:6]}"
