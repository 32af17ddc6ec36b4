"""The operator `coding-agent`: any coding agent in a folder of its own, with the command `avo`, until it submits."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path

from pytest_avo.core.disk.folder import make_folder
from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.records import GEOMEAN
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.operators.external.presets import PRESETS, WAIT, AgentUsage, preset
from pytest_avo.operators.external.program import Program, environment, install_command
from pytest_avo.operators.external.step import Step
from pytest_avo.operators.external.step_server import StepServer
from pytest_avo.operators.external.wire import STEP_VARIABLE
from pytest_avo.operators.external.work_folder import WorkFolder
from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase
from pytest_avo.operators.knowledge.memory import LessonMemory
from pytest_avo.operators.model.redaction import Redactor
from pytest_avo.operators.model.transcript import run_folder, transcript_path
from pytest_avo.operators.operator import OperatorFailed, OperatorStopped, Proposal, Task
from pytest_avo.report.text import duration

TICK_S = 0.1
COMMANDS = "bin"
"""Folder with `avo`, in that of the run."""
LAST_WORDS_S = 60.0
"""How long an agent may go on after its submission: its last line says what it has used."""
STALL_S = 1200.0
"""A program that prints nothing, asks nothing and waits for no evaluation for so long is taken to hang."""
BEGIN = (
    "Work in this folder. Read AGENTS.md, which says how, and TASK.md, which says what; then do the step that they "
    "describe. It ends when you call `avo submit`."
)
GO_ON = (
    "The next step begins: TASK.md and HISTORY.md are new, and draft.py is what TASK.md says. Read them, and do the "
    "step. It ends when you call `avo submit`."
)
AGAIN = "The run was interrupted in this step and goes on: the folder is as you left it. Go on until you `avo submit`."


class CodingAgentOperator:
    """Has an agent work in the member's folder. Safe to use from several threads, one step on each."""

    name = "coding-agent"

    def __init__(self, settings: AgentSettings, chosen: ExternalSettings) -> None:
        """InvalidInput for an agent that cannot be started, or a folder of knowledge that cannot be read."""
        if not chosen.agent:
            raise InvalidInput(f"--avo-operator {self.name}: expected --avo-agent {'|'.join(PRESETS)} or a command")
        self.settings = settings
        self.chosen = chosen
        self.agent = preset(chosen.agent)
        self._redactor = Redactor.of_environment(os.environ)
        self._memory: LessonMemory | None = None
        self._servers: dict[int, StepServer] = {}
        self._lock = threading.Lock()
        self.knowledge = KnowledgeBase.of_option(settings.knowledge) if settings.use_knowledge else None

    def describe(self) -> str:
        """Operator, agent, and how long a step may take."""
        agent = "whoever works in the folders" if self.chosen.agent == WAIT else self.chosen.agent
        return f"{self.name} ({agent}, a step takes up to {duration(self.chosen.step_time_s)})"

    def propose(self, task: Task) -> Proposal:
        """One step; see VariationOperator."""
        task.ledger.check_tokens()
        run = self._run(task)
        folder, server = WorkFolder(run / f"m{task.member}"), self._server(task, run)
        memory = self._remembered(task)
        goes_on = folder.lay_out(task, knowledge=self.knowledge, with_memory=memory is not None, socket=server.path)
        step = Step(task, folder, memory=memory, knowledge=self.knowledge, time_s=self.chosen.step_time_s)
        server.open(step)
        usage = AgentUsage()
        try:
            if self.agent.start:
                reason = self._attend(step, run, usage, goes_on=goes_on)
            else:
                task.say(
                    f"  generation {task.generation}, member {task.member} waits for `avo submit` in {folder.path}"
                )
                reason = _await(step)
        finally:
            step.ended.set()
            task.ledger.add_usage(tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, cost=usage.cost)
        return _proposal(step, usage, reason)

    def _run(self, task: Task) -> Path:
        """The folder of the run, which holds those of its members."""
        work = self.chosen.work
        work.mkdir(parents=True, exist_ok=True)  # members come here at the same time
        if not (work / ".gitignore").exists():
            (work / ".gitignore").write_text("*\n", encoding="utf-8")
        path = work / run_folder(Path(), task.view.run).name
        path.mkdir(exist_ok=True)
        install_command(path / COMMANDS)
        return path

    def _server(self, task: Task, run: Path) -> StepServer:
        with self._lock:
            server = self._servers.get(task.member)
            if server is None or not server.path.exists():  # removed with its folder, by `git clean -fdx`, say
                server = self._servers[task.member] = StepServer(run / f"m{task.member}.sock", task.stopping)
            return server

    def _remembered(self, task: Task) -> LessonMemory | None:
        with self._lock:
            if self.settings.use_memory and self._memory is None:
                self._memory = LessonMemory(task.view)
            return self._memory

    def _attend(self, step: Step, run: Path, usage: AgentUsage, *, goes_on: bool) -> str:
        """Run the agent until the step ends; returns why it ended without a submission, "" where there is one."""
        task, sessions = step.task, run / f"m{step.task.member}.session"
        _recall(usage, sessions)
        transcript = transcript_path(
            run_folder(task.folder, task.view.run), generation=task.generation, member=task.member
        ).with_suffix(".log")
        if transcript.is_file():  # of before an interruption: what it used then counts
            for line in transcript.read_text(encoding="utf-8").splitlines():
                self.agent.take(usage, line)
        self.agent.collect(usage, step.folder.path)
        make_folder(task.folder)
        session = usage.session
        prompt = BEGIN if not (session and self.agent.resume) else AGAIN if goes_on else GO_ON
        program = Program(
            self.agent.command(prompt, session=session, model=self.settings.model),
            folder=step.folder.path,
            environment=environment(step.folder.path, commands=run / COMMANDS, step_variable=STEP_VARIABLE),
            transcript=transcript,
            redactor=self._redactor,
            read=lambda line: self.agent.take(usage, line),
        )
        try:
            reason = _watch(step, program, usage)
        finally:
            status = program.end()
            self.agent.collect(usage, step.folder.path)
            _remember(usage, sessions)
        if reason == ENDED and status != 0 and step.is_untouched:
            said = " | ".join(line for line in program.last if line) or "nothing"
            raise OperatorFailed(f"{self.chosen.agent} ended with status {status} and did nothing; it said: {said}")
        return f"{reason} (status {status})" if reason == ENDED else reason


def _recall(usage: AgentUsage, path: Path) -> None:
    """The session that the member's last step ended with, and what it had used by then."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        usage.session, usage.before = str(kept["session"]), (int(kept["tokens_in"]), int(kept["tokens_out"]))
    except (OSError, ValueError, KeyError, TypeError):
        return  # the first step, or a file that a kill cut short: the agent begins anew


def _remember(usage: AgentUsage, path: Path) -> None:
    used = {"tokens_in": usage.before[0] + usage.tokens_in, "tokens_out": usage.before[1] + usage.tokens_out}
    if usage.session:
        path.write_text(json.dumps({"session": usage.session, **used}), encoding="utf-8")


ENDED = "the agent ended without `avo submit`"


def _watch(step: Step, program: Program, usage: AgentUsage) -> str:
    """Wait until the agent has submitted, ended, or must be ended; returns why there is no submission."""
    submitted = 0.0
    while program.status is None:
        _check(step)
        now = time.monotonic()
        if step.submission is not None:
            submitted = submitted or now
            if now - submitted > LAST_WORDS_S:
                break
        elif reason := _why_end(step, program, usage, now):
            return reason
        time.sleep(TICK_S)
    return "" if step.submission is not None else ENDED


def _why_end(step: Step, program: Program, usage: AgentUsage, now: float) -> str:
    if step.left_s == 0:
        return "the time of the step is over"
    if now - max(program.active, step.used) > STALL_S and not step.tickets.running():
        return f"the agent did nothing for {duration(STALL_S)}"
    if over := step.task.ledger.why_over(tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, cost=usage.cost):
        return over
    return ""


def _await(step: Step) -> str:
    """Wait for a submission by whoever works in the folder."""
    while not step.ended.wait(TICK_S):
        _check(step)
        if step.left_s == 0:
            return "the time of the step is over"
    return ""


def _check(step: Step) -> None:
    if step.task.stopping.is_set():
        raise OperatorStopped("the run is ending")


def _proposal(step: Step, usage: AgentUsage, reason: str) -> Proposal:
    """The submission, else the best draft of the step, else that it failed."""
    source, hypothesis, predicted, failed = step.draft.parent_text, "", {}, reason
    if step.submission is not None:
        source, hypothesis, predicted = step.submission.source, step.submission.hypothesis, step.submission.predicted
        failed = ""
    elif best := step.draft.best():
        source, predicted, failed = best[0].source, {GEOMEAN: math.exp(best[1].estimate)}, ""
        hypothesis = f"the best draft of a step that ended early: {reason}"
    return Proposal(
        source=source,
        hypothesis=hypothesis,
        predicted=predicted,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        cost=step.task.ledger.cost_of(tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, cost=usage.cost),
        lesson=" ".join(step.lessons),
        failed=failed,
    )
