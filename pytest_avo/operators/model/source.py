"""Where a step's answers come from: the step's own transcript first, then the model, or another run's recording.

A step that was interrupted is gone through again with the answers it had already got, so that nothing is paid twice,
and goes on with the model where they end. Its evaluations are in the lineage for the same reason.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage import view as lineage_view
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.records import Run
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import Prices
from pytest_avo.operators.model.breaker import Breaker
from pytest_avo.operators.model.chat import (
    Answer,
    ChatModel,
    EndpointUnavailable,
    Message,
    ModelCallError,
    Tool,
    estimated_tokens,
    parsed_answer,
)
from pytest_avo.operators.model.client import OpenAIChat
from pytest_avo.operators.model.clients import Clients, Endpoint
from pytest_avo.operators.model.dialect import Dialect
from pytest_avo.operators.model.transcript import EntryKind, Recorded, Transcript, recorded, run_folder, transcript_path
from pytest_avo.operators.operator import OperatorStopped, Task

LEAST_OUTPUT_TOKENS = 1024
"""An answer that a budget leaves less room for is not worth its request."""


class RecordingEnds(Exception):
    """The recording has no further answer in this step, though it has in later ones: the step had failed there."""


class AnswerSource:
    """What operators ask in one run. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint | None, *, replay: Run | None, folder: Path) -> None:
        """`EndpointUnavailable` where the endpoint cannot be asked at all."""
        self.endpoint = endpoint
        self.clients = None if endpoint is None else Clients(endpoint)
        self.replay = replay
        """The recorded run; None where the model itself is asked."""
        self.folder = folder
        self.breaker = Breaker()
        self.dialect = Dialect()

    @classmethod
    def of(cls, settings: AgentSettings, *, operator: str, folder: Path) -> AnswerSource:
        """The source that the user chose; InvalidInput where it cannot be asked at all."""
        if settings.replay is not None:
            return cls(None, replay=_recorded_run(settings.replay, operator=operator, folder=folder), folder=folder)
        if not settings.model:
            raise InvalidInput(f"--avo-operator {operator}: expected --avo-model NAME, the model to ask")
        endpoint = Endpoint(model=settings.model, base_url=settings.base_url, timeout_s=settings.model_timeout_s)
        try:
            return cls(endpoint, replay=None, folder=folder)
        except EndpointUnavailable as error:
            raise InvalidInput(f"--avo-operator {operator}: {error}") from None

    def describe(self) -> str:
        """One line for the header of a run."""
        if self.replay is not None:
            return f"the recorded answers of run {self.replay.id}"
        assert self.endpoint is not None
        return f"{self.endpoint.model} at {self.endpoint.base_url or 'OpenAI'}"

    def step(self, task: Task) -> StepAnswers:
        """The answers of one step."""
        return StepAnswers(self, task)


class StepAnswers:
    """One step's conversations: what was answered before, then the model. Close it when the step has ended."""

    def __init__(self, source: AnswerSource, task: Task) -> None:
        self.task = task
        self.source = source
        self.tokens_in = self.tokens_out = 0
        """What the answers of this step took, those of before an interruption included."""
        folder = run_folder(source.folder, source.replay or task.view.run)
        self._path = transcript_path(folder, generation=task.generation, member=task.member)
        self.recorded: dict[EntryKind, deque[Recorded]] = {
            "step": deque(recorded(self._path, "step")),
            "supervisor": deque(recorded(self._path, "supervisor")),
        }
        self._transcript = None if source.endpoint is None else Transcript(self._path)
        self.has_diverged = False

    @property
    def cost(self) -> float:
        """The price of the tokens, 0 where the user gave none."""
        prices: Prices | None = self.task.ledger.prices
        return prices.cost(tokens_in=self.tokens_in, tokens_out=self.tokens_out) if prices else 0.0

    def opening(self, kind: EntryKind) -> list[Message] | None:
        """How the interrupted conversation began; None where none was interrupted.

        The lineage has grown since then (by the lessons of the step itself, say), but what was answered was this.
        """
        entries = self.recorded[kind]
        if self.source.replay is not None or not entries:
            return None
        return list(entries[0].messages)

    def chat(self, kind: EntryKind) -> ChatModel:
        """The model of one conversation."""
        if self._transcript is None or self.source.endpoint is None:
            return _StepChat(self, kind, None)
        endpoint = replace(self.source.endpoint, seed=self.task.seed)
        live = OpenAIChat(
            endpoint,
            clients=self.source.clients,
            breaker=self.source.breaker,
            dialect=self.source.dialect,
            record=partial(self._transcript.append, kind),
        )
        return _StepChat(self, kind, live)

    def end(self, kind: EntryKind) -> NoReturn:
        """Raise what the end of a recording means: a step that had failed, no review, or the end of the replay."""
        if kind == "supervisor":
            raise RecordingEnds(f"no review was recorded in generation {self.task.generation}")
        later = [path.name for path in self._path.parent.glob("gen-*.jsonl") if path.name > self._path.name]
        if later:
            raise RecordingEnds(f"the recording of generation {self.task.generation} ends here")
        assert self.source.replay is not None
        raise OperatorStopped(f"the recording of run {self.source.replay.id} ends in generation {self.task.generation}")

    def close(self) -> None:
        if self._transcript is not None:
            self._transcript.close()


class _StepChat:
    """A conversation that is answered from a recording while there is one; implements ChatModel."""

    def __init__(self, step: StepAnswers, kind: EntryKind, live: ChatModel | None) -> None:
        self._step = step
        self._kind: EntryKind = kind
        self._entries = step.recorded[kind]
        self._live = live
        self._turn = 0

    def complete(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), max_output_tokens: int) -> Answer:
        self._turn += 1
        step = self._step
        if self._entries:
            entry = self._entries.popleft()
            answer = parsed_answer(entry.response, request_tokens=estimated_tokens(messages, tools))
            if self._live is None:
                self._compare(entry, messages)
            else:
                self._count(answer)
            return answer
        if self._live is None:
            step.end(self._kind)
        ledger, needed = step.task.ledger, estimated_tokens(messages, tools)
        call = ledger.reserve(tokens_in=needed, tokens_out=max_output_tokens, least_out=LEAST_OUTPUT_TOKENS)
        try:
            answer = self._live.complete(messages, tools=tools, max_output_tokens=call.tokens_out)
        except (ModelCallError, EndpointUnavailable):
            ledger.settle(call, tokens_in=0, tokens_out=0)
            raise
        ledger.settle(call, tokens_in=answer.usage.tokens_in, tokens_out=answer.usage.tokens_out)
        step.task.record(ledger.snapshot())
        self._count(answer)
        return answer

    def _count(self, answer: Answer) -> None:
        self._step.tokens_in += answer.usage.tokens_in
        self._step.tokens_out += answer.usage.tokens_out

    def _compare(self, entry: Recorded, messages: Sequence[Message]) -> None:
        """Say where a replay first differs from its recording; the answers are given all the same."""
        step = self._step
        if step.has_diverged:
            return
        for then, now in zip(entry.messages, messages, strict=False):
            if (before := _comparable(then)) != (after := _comparable(now)):
                step.has_diverged = True
                where = f"generation {step.task.generation}, turn {self._turn}"
                step.task.say(f"replay: {where} differs from the recording: {_difference(before, after)}")
                return
        if len(entry.messages) != len(messages):
            step.has_diverged = True
            step.task.say(
                f"replay: generation {step.task.generation}, turn {self._turn} differs from the recording: "
                f"{len(entry.messages)} messages then, {len(messages)} now"
            )


def _recorded_run(number: int, *, operator: str, folder: Path) -> Run:
    lineage = folder / FILE
    runs = lineage_view.runs(lineage) if lineage.is_file() else ()
    run = next((each for each in runs if each.id == number), None)
    if run is None:
        known = ", ".join(str(each.id) for each in runs) or "none"
        raise InvalidInput(f"--avo-replay: expected a run of {lineage} ({known}), got {number}")
    if run.operator != operator:
        raise InvalidInput(f"--avo-replay: run {number} is of another operator: add --avo-operator {run.operator}")
    if not run_folder(folder, run).is_dir():
        raise InvalidInput(f"--avo-replay: run {number} has no transcripts in {run_folder(folder, run)}")
    return run


_BUDGET = re.compile(r"^## Budget of this step\n.*?(?=^# |\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"\[(data|end) \w+\]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


def _comparable(message: Mapping[str, object]) -> str:
    """A message without what differs between two runs that do the same: limits, fences, numbers, white space."""
    content = message.get("content")
    text = _FENCE.sub(r"[\1]", _BUDGET.sub("", content) if isinstance(content, str) else "")
    return " ".join(_NUMBER.sub("#", text).split())


def _difference(before: str, after: str) -> str:
    """The first words in which two texts differ."""
    start = next(
        (index for index, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, before.rfind(" ", 0, start))
    return f"{before[start : start + 60].strip()!r} then, {after[start : start + 60].strip()!r} now"
