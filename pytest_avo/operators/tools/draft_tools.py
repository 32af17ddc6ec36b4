"""Tools over the working draft: read, edit, evaluate, look into, submit. None takes a path: there is only the draft."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL
from pytest_avo.core.shape import Shape
from pytest_avo.lineage.records import GEOMEAN
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.model.fence import bounded
from pytest_avo.operators.operator import Task, Unavailable
from pytest_avo.operators.tools import edits
from pytest_avo.operators.tools.draft import Draft, Tried, named
from pytest_avo.operators.tools.draft_calls import (
    CompileReport,
    EditDraft,
    EvaluateDraft,
    MachineFacts,
    ProfileDraft,
    RaceDraft,
    ReadDraft,
    ResetDraft,
    RunScratch,
    Submit,
    WriteDraft,
)
from pytest_avo.operators.tools.edits import Replacement
from pytest_avo.operators.tools.lineage_tools import numbered
from pytest_avo.operators.tools.tools import LONGEST_SOURCE, Mistake, ToolSpec

LONGEST_LOG = 3000
LOGS_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Submission:
    """What ends a step."""

    source: str
    hypothesis: str
    predicted: dict[str, float]
    followed: bool = True


class DraftTools:
    """Works on one step's draft until it is submitted."""

    def __init__(self, task: Task, draft: Draft, *, with_memory: bool, tries_submission: bool = True) -> None:
        """`tries_submission`: a draft that nobody knows to be right is checked on one shape when it is submitted."""
        self.task = task
        self.draft = draft
        self.with_memory = with_memory
        self.tries_submission = tries_submission
        self.submission: Submission | None = None
        self._warned: set[str] = set()

    def over(self, text: str) -> DraftTools:
        """The same tools over another text of the draft: one that is in a file, say."""
        other = copy.copy(self)
        other.draft = self.draft.at(text)
        return other

    def specs(self) -> list[ToolSpec[Any]]:
        specs: list[ToolSpec[Any]] = [
            ToolSpec("read_draft", ReadDraft, self.read, LONGEST_SOURCE),
            ToolSpec("edit_draft", EditDraft, self.edit),
            ToolSpec("write_draft", WriteDraft, self.write),
            ToolSpec("reset_draft", ResetDraft, self.reset),
            ToolSpec("evaluate_draft", EvaluateDraft, self.evaluate),
            ToolSpec("race_draft", RaceDraft, self.race),
            ToolSpec("profile_draft", ProfileDraft, self.profile),
            ToolSpec("run_scratch", RunScratch, self.scratch),
            ToolSpec("machine_facts", MachineFacts, self.machine),
            ToolSpec("submit", Submit, self.submit),
        ]
        if self.task.compile_report is not None:
            specs.append(ToolSpec("compile_report", CompileReport, self.compile_report))
        return specs

    def read(self, arguments: ReadDraft) -> str:
        return numbered(self.draft.text, arguments.first_line, arguments.last_line)

    def edit(self, arguments: EditDraft) -> str:
        changes = [Replacement(each.search, each.replacement) for each in arguments.replacements]
        return self.draft.accept(edits.apply(self.draft.text, changes))

    def write(self, arguments: WriteDraft) -> str:
        return self.draft.accept(edits.write(self.draft.text, arguments.source))

    def reset(self, arguments: ResetDraft) -> str:
        return self.draft.accept(edits.write(self.draft.text, self._source(arguments.version)))

    def evaluate(self, arguments: EvaluateDraft) -> str:
        shapes = self.draft.shapes(arguments.shapes)
        tried = self.draft.evaluate(shapes, timed=arguments.timed)
        self.task.say(f"  {named(tried.source)}: {_counts(tried, shapes)}{self._speed(tried)}")
        return self.report(tried, shapes)

    def race(self, arguments: RaceDraft) -> str:
        shapes = self.draft.shapes(arguments.shapes)
        try:
            source, label, peer = self._source(arguments.against), arguments.against, ""
        except versions.UnknownVersion as unknown:
            if arguments.against not in self._peers():
                raise Mistake(f"{unknown}, or a peer of {', '.join(self._peers()) or 'none here'}") from None
            source, label, peer = self._source("incumbent"), "incumbent", arguments.against
        results = self.draft.race(shapes, against=source, label=label, peer=peer)
        lines = [f"{named(self.draft.text)} beside {arguments.against}, fresh rounds"]
        lines += [versions.score_line(results[shape.id].verdict, baseline=label) for shape in shapes]
        return "\n".join(lines)

    def _peers(self) -> list[str]:
        """The peers that the seed was timed beside."""
        seed = self.task.view.attempts()[0]
        timings = [each.timing for each in versions.stored(self.task.view, seed).values() if each.timing]
        return sorted({arm for timing in timings for arm in timing.seconds} - {KERNEL, BASELINE, FIXED})

    def compile_report(self, arguments: CompileReport) -> str:
        if not arguments.version:
            self.draft.check()
        source = self._source(arguments.version) if arguments.version else self.draft.text
        assert self.task.compile_report is not None, "the tool is offered only then"
        return self.task.compile_report(source, self._shape(arguments.shape), function=arguments.function)

    def profile(self, arguments: ProfileDraft) -> str:
        self.draft.check()
        return self.task.profile(self.draft.text, self._shape(arguments.shape))

    def scratch(self, arguments: RunScratch) -> str:
        return self.task.scratch(arguments.script, self.draft.text)

    def machine(self, _: MachineFacts) -> str:
        return self.task.machine()

    def submit(self, arguments: Submit) -> str:
        draft = self.draft
        draft.check()
        predicted = self._predicted(arguments.predicted)
        if not draft.is_changed:
            raise Mistake("the draft is the incumbent, but for comments and layout: there is nothing to submit")
        source = draft.text
        if earlier := draft.same_as():
            outcome = self.task.view.outcome(earlier.id)
            line = versions.line(earlier, outcome, None)
            self._warn_once("same", f"the draft is the same program as an earlier attempt, which ended so: {line}")
            # Under its own text the loop recognises it and does not evaluate it again.
            source = self.task.view.source(earlier.digest)
        else:
            self._look_again()
        self.submission = Submission(source, " ".join(arguments.hypothesis.split()), predicted, arguments.followed)
        return "submitted: the harness verifies it now"

    def _look_again(self) -> None:
        """Warn of a draft that is known to be wrong, or not known to be right."""
        present = self.draft.present
        known = [shape for shape in self.task.shapes if present and shape.id in present.results]
        if present and not all(present.results[shape.id].verdict.is_good for shape in known):
            self._warn_once("wrong", self.report(present, known))
        elif not known and self.tries_submission:
            self._try_smallest()
        elif not known:
            self._warn_once("unknown", "this draft was not evaluated on any shape")

    def _try_smallest(self) -> None:
        """A last look at a draft that is not known to be right, where the budget has an evaluation for it."""
        smallest = min(self.task.shapes, key=lambda shape: shape.flops)
        try:
            tried = self.draft.evaluate([smallest], timed=False)
        except Unavailable:
            return
        if not tried.results[smallest.id].verdict.is_good:
            self._warn_once("wrong", self.report(tried, [smallest]))

    def _warn_once(self, what: str, text: str) -> None:
        """Refuse the first submission that deserves a second thought; the second is taken as meant."""
        if what not in self._warned:
            self._warned.add(what)
            raise Mistake(f"not submitted yet: {text}\nrepair it, or submit again to end the step with it")

    def _predicted(self, given: dict[str, float]) -> dict[str, float]:
        known = [GEOMEAN, *(shape.id for shape in self.task.shapes)]
        for name, ratio in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or known
                raise Mistake(f"predicted: there is no {name!r}: expected geomean or a shape id, as {', '.join(near)}")
            if not (ratio > 0 and math.isfinite(ratio)):
                raise Mistake(f"predicted: {name}: expected a ratio above zero (1.05 is 5% faster), got {ratio}")
        return given

    def _source(self, name: str) -> str:
        view = self.task.view
        # The parent, not whatever was promoted meanwhile: drafts are measured against the parent.
        if name == "incumbent":
            return view.source(self.task.parent.digest)
        return view.source(versions.find_version(view, name, promoted_only=not self.with_memory).digest)

    def _shape(self, name: str) -> Shape:
        return self.draft.shapes([name] if name else [])[0]

    def report(self, tried: Tried, shapes: Sequence[Shape]) -> str:
        """What an evaluation said, shape by shape, with the logs of what failed."""
        results = [tried.results[shape.id] for shape in shapes]
        lines = [named(tried.source), *(versions.score_line(result.verdict) for result in results)]
        if gain := tried.gain(self.task.shapes):
            lines.append(
                f"geomean over all shapes: {versions.spelled(gain.exp())} of the incumbent's speed (99% bounds); "
                f"promotion wants {self.task.rule}"
            )
        notes = dict.fromkeys(note for result in results for note in result.evaluation.notes)
        lines += [f"note: {note}" for note in notes]
        failed = [result for result in results if not result.verdict.is_good]
        for log in list(dict.fromkeys(each.evaluation.log for each in failed if each.evaluation.log))[:LOGS_SHOWN]:
            lines.append(f"printed by the kernel:\n{bounded(log, LONGEST_LOG)}")
        return "\n".join(lines)

    def _speed(self, tried: Tried) -> str:
        gain = tried.gain(self.task.shapes)
        return "" if gain is None else f", {versions.spelled(gain.exp())} of the incumbent's speed"


def _counts(tried: Tried, shapes: Sequence[Shape]) -> str:
    kinds = [tried.results[shape.id].verdict.kind for shape in shapes]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
