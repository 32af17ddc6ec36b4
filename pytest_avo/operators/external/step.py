"""A step as its member sees it from its folder: the tools over the draft in the file, and what only a folder has."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.likeness import normalised
from pytest_avo.operators.budget import BudgetExhausted
from pytest_avo.operators.external.briefing import contract_text, task_text
from pytest_avo.operators.external.tickets import Ticket, Tickets
from pytest_avo.operators.external.wire import CLOSED, DONE, FAILED, SPENT, USAGE, WRONG, Reply, Request
from pytest_avo.operators.external.work_folder import WorkFolder
from pytest_avo.operators.knowledge import versions
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.operator import DraftsSpent, OperatorStopped, Task, Unavailable
from pytest_avo.operators.tools.draft import Draft
from pytest_avo.operators.tools.draft_tools import DraftTools, Submission
from pytest_avo.operators.tools.lineage_tools import LineageTools, knowledge_specs
from pytest_avo.operators.tools.tools import MISTAKES, Mistake, ToolArguments, ToolSpec, carry_out
from pytest_avo.report.text import counted, duration

EVALUATE, RACE, SUBMIT = "evaluate_draft", "race_draft", "submit"
COMPILE = "compile_report"
LOOKS = {
    COMPILE: "looking at what it compiles to",
    "profile_draft": "profiling",
    "run_scratch": "running a script",
    "machine_facts": "looking at the machine",
}
"""Done where kernels are evaluated, which may be far away: with a ticket, as an evaluation is."""


class Status(ToolArguments, frozen=True):
    """Say where the step stands: draft, direction, budget, evaluations that run."""


class ReadTask(ToolArguments, frozen=True):
    """Read what this step is: claim, rule of promotion, direction, shapes with figures, budget; the contract.

    Read it first, and again when a new step begins.
    """


class Wait(ToolArguments, frozen=True):
    """Wait for what runs (evaluation, profile, script); after a submission, for its verdict and the next step."""

    ticket: Annotated[int | None, Meta(description="which evaluation; none for the newest that runs")] = None


def _answered_elsewhere(_: ToolArguments) -> str:
    raise AssertionError("the step server answers it")


FOLDER_TOOLS = (
    ToolSpec("read_task", ReadTask, _answered_elsewhere),
    ToolSpec("status", Status, _answered_elsewhere),
    ToolSpec("wait", Wait, _answered_elsewhere),
)
"""What only a member's folder has: a chat waits for every answer, and has its status in its prompt."""


class Step:
    """One step of one member, from its opening to a submission. Safe to use from several threads."""

    def __init__(
        self,
        task: Task,
        folder: WorkFolder,
        *,
        memory: LessonMemory | None,
        knowledge: KnowledgeBase | None,
        time_s: float | None,
    ) -> None:
        self.task = task
        self.folder = folder
        self.draft = Draft(task, memory)
        with_memory = memory is not None
        self._lineage = LineageTools(task, memory)
        self._drafting = DraftTools(task, self.draft, with_memory=with_memory, tries_submission=False)
        self._knowledge = knowledge_specs(knowledge) if knowledge is not None else []
        self._ends = None if time_s is None else time.monotonic() + time_s
        self.tickets = Tickets()
        self.submission: Submission | None = None
        self.ended = threading.Event()
        """Set by a submission, and by whoever ends the step without one."""
        self.used = time.monotonic()
        """When the member last asked for something."""
        self.is_used = False

    @property
    def lessons(self) -> list[str]:
        """Noted in this step."""
        return self._lineage.lessons

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was asked, and the draft reads as it did when the step began."""
        try:
            return not self.is_used and not self.draft.at(self.folder.read_draft()).is_changed
        except Mistake:
            return False

    @property
    def left_s(self) -> float | None:
        """Seconds until the step is ended from outside; None where it has no limit."""
        limits = [self.task.ledger.time_left_s(), None if self._ends is None else self._ends - time.monotonic()]
        known = [limit for limit in limits if limit is not None]
        return max(0.0, min(known)) if known else None

    def specs(self, drafting: DraftTools) -> dict[str, ToolSpec[Any]]:
        """The tools by name, over one text of the draft."""
        return {spec.name: spec for spec in [*self._lineage.specs(), *self._knowledge, *drafting.specs()]}

    def answer(self, request: Request) -> Reply:
        """Carry a call out; blocks as long as that takes."""
        return self._told(partial(self._answer, request))

    def waited(self, ticket: Ticket, seconds: float | None) -> Reply:
        """The reply of an evaluation in flight."""
        return self._told(partial(ticket.wait, seconds))

    def _told(self, work: Callable[[], Reply]) -> Reply:
        """A reply whatever happens: what went wrong, in the words and with the status of its kind."""
        self.used = time.monotonic()
        self.is_used = True
        try:
            return work()
        except MISTAKES as error:
            return Reply(text=f"error: {error}", status=WRONG)
        except DraftsSpent as error:
            return Reply(text=f"budget spent: {error}", status=SPENT)
        except BudgetExhausted as error:
            return Reply(text=str(error), status=SPENT)
        except Unavailable as error:
            return Reply(text=f"not available here: {error}", status=WRONG)
        except OperatorStopped as error:
            return Reply(text=f"the run has ended: {error}", status=CLOSED)
        except EvaluatorError as error:
            return Reply(text=f"the evaluator failed, the draft is not to blame: {error}", status=FAILED)
        finally:
            self.used = time.monotonic()

    def _answer(self, request: Request) -> Reply:
        if request.tool == "status":
            return self.status()
        if request.tool == "tools":
            return self._described()
        if request.tool == "read_task":
            return Reply(text=f"{task_text(self.task, python=sys.executable)}\n{contract_text(self.task)}")
        if self.ended.is_set():
            text = "this step has ended; `avo wait` returns when its candidate is judged and the next step begins"
            return Reply(text=text, status=CLOSED)
        before = self.folder.read_draft()
        drafting = self._drafting.over(before)
        specs = self.specs(drafting)
        if request.tool == COMPILE and request.tool not in specs:
            raise Unavailable(f"there is no compile report of {self.task.view.run.target} kernels")
        call = partial(carry_out, specs, request.tool, json.dumps(request.arguments))
        if request.tool in (EVALUATE, RACE):
            return self._evaluate(drafting, request, call)
        if request.tool in LOOKS:
            key = request.tool, before, json.dumps(request.arguments, sort_keys=True)
            return self.tickets.open(key, LOOKS[request.tool], partial(_answered, call)).wait(request.wait_s)
        text = call()
        if drafting.draft.text != before:
            self.folder.write_draft(drafting.draft.text)
        if request.tool == SUBMIT:
            self._submitted(drafting)
        return Reply(text=text, data=self._data(request))

    def _described(self) -> Reply:
        """All tools with their schemas, for clients that ask for a list, as MCP's do."""
        tools = [spec.tool() for spec in [*self.specs(self._drafting).values(), *FOLDER_TOOLS]]
        described = [{"name": x.name, "description": x.description, "inputSchema": x.parameters} for x in tools]
        return Reply(text="\n".join(tool.name for tool in tools), data={"tools": described})

    # ---- evaluations

    def _evaluate(self, drafting: DraftTools, request: Request, call: Callable[[], str]) -> Reply:
        shapes = drafting.draft.shapes([str(name) for name in request.arguments.get("shapes", [])])
        drafting.draft.check()
        key = request.tool, normalised(drafting.draft.text), json.dumps(request.arguments, sort_keys=True)
        if request.tool == RACE:
            what, work = f"racing on {counted(len(shapes), 'shape')}", partial(_answered, call)
        else:
            timed = bool(request.arguments.get("timed", False))
            what = f"{'timing' if timed else 'checking'} {counted(len(shapes), 'shape')}"
            work = partial(self._evaluated, drafting, [shape.id for shape in shapes], call)
        ticket = self.tickets.open(key, what, work)
        return ticket.wait(request.wait_s)

    def _evaluated(self, drafting: DraftTools, shapes: list[str], call: Callable[[], str]) -> Reply:
        text = call()
        tried = drafting.draft.present
        assert tried is not None, "it was just evaluated"
        verdicts = [tried.results[shape].verdict for shape in shapes]
        gain = tried.gain(self.task.shapes)
        data: dict[str, Any] = {
            "shapes": [msgspec.to_builtins(verdict) for verdict in verdicts],
            "geomean": None if gain is None else msgspec.to_builtins(gain.exp()),
            "evaluations_left": self.task.ledger.evaluations_left(),
        }
        is_good = all(verdict.is_good for verdict in verdicts)
        return Reply(text=text, status=DONE if is_good else WRONG, data=data)

    # ---- the end, and where things stand

    def _submitted(self, drafting: DraftTools) -> None:
        self.submission = drafting.submission
        self.folder.remember_submission(drafting.draft.text)
        self.ended.set()

    def _data(self, request: Request) -> dict[str, Any]:
        if request.tool != "list_versions":
            return {}
        view = self.task.view
        outcomes, scores = view.outcomes(), view.log_scores()
        shown = versions.visible(view, promoted_only=request.arguments.get("only") == "promoted")
        rows = [
            {
                "version": versions.version_name(attempt),
                "outcome": msgspec.to_builtins(outcomes.get(attempt.id)),
                "log_ratio_to_seed": scores.get(attempt.id),
                "hypothesis": attempt.hypothesis,
                "predicted": attempt.predicted,
            }
            for attempt in shown[::-1][: int(request.arguments.get("last", 20))]
        ]
        return {"versions": rows}

    def _before(self) -> str:
        """How this member's attempt before this step ended; "" where there was none."""
        view, task = self.task.view, self.task
        mine = [x for x in view.attempts() if x.member == task.member and 0 < x.generation < task.generation]
        if not mine:
            return ""
        return versions.line(mine[-1], view.outcome(mine[-1].id), view.log_scores().get(mine[-1].id))

    def status(self) -> Reply:
        """Where the step stands, in a few lines."""
        task, ledger = self.task, self.task.ledger
        is_open = not self.ended.is_set()
        draft = self.draft.at(self.folder.read_draft())
        parent = versions.version_name(task.parent)
        lines = [
            f"run {task.view.run.id}, generation {task.generation}, member {task.member}: "
            + ("open" if is_open else "ended; `avo wait` waits for the next step"),
            f"draft: {draft.text.count(chr(10))} lines, {'changed since' if draft.is_changed else 'as'} {parent}",
        ]
        if task.direction:
            lines.append(f"direction: {task.direction}")
        if before := self._before():
            lines.append(f"your last attempt: {before}")
        left_s, evaluations = self.left_s, ledger.evaluations_left()
        if is_open and left_s is not None:
            lines.append(f"time: the step ends in {duration(left_s)}")
        spent = ledger.snapshot()
        made = f"evaluations: {spent.evaluations} of drafts and {spent.verifications} of candidates made in this run"
        lines.append(made if evaluations is None else f"{made}, {evaluations} left")
        if best := self.draft.best():
            lines.append(f"best draft of this step: {versions.spelled(best[1].exp())} of {parent}'s speed")
        lines += [f"running: ticket {each.number}, {each.what}" for each in self.tickets.running()]
        data = {
            "generation": task.generation,
            "member": task.member,
            "open": is_open,
            "parent": parent,
            "direction": task.direction,
            "seconds_left": left_s,
            "evaluations_left": evaluations,
            "running": [each.number for each in self.tickets.running()],
        }
        return Reply(text="\n".join(lines), data=data)


def unknown_ticket(number: object) -> Reply:
    """What a wait for a ticket that the step does not have is told."""
    return Reply(text=f"there is no ticket {number} in this step: `avo status` lists those that run", status=USAGE)


def _answered(call: Callable[[], str]) -> Reply:
    return Reply(text=call())
