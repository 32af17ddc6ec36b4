"""The coding agents that are known by name: how each is started and gone on with, and where its usage stands."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_avo.core.errors import InvalidInput

PROMPT, SESSION, MODEL, RESUME = "{prompt}", "{session}", "{model}", "{resume}"
WAIT = "wait"
"""Whoever works in the folder is not started by the run: a person, or a program of theirs."""


MOST_USED = 10**15
"""Tokens, or money: what says more is no figure."""


@dataclass(slots=True)
class AgentUsage:
    """What an agent's output says it has used, added up over the runs of a step."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    """None where the output tells none."""
    session: str = ""
    """The name by which the agent continues its session."""
    before: tuple[int, int] = (0, 0)
    """Tokens in and out that the session had used when the step began, for agents that report those of all of it."""

    def add(self, tokens_in: Any, tokens_out: Any, cost: Any = None) -> None:
        """Add figures as the output has them; what is no number counts as none."""
        self.tokens_in += _whole(tokens_in)
        self.tokens_out += _whole(tokens_out)
        if isinstance(cost, int | float) and 0 <= cost < MOST_USED:  # NaN is not
            self.cost = (self.cost or 0.0) + float(cost)

    def total(self, tokens_in: Any, tokens_out: Any) -> None:
        """Take figures that are of the whole session."""
        self.tokens_in = max(0, _whole(tokens_in) - self.before[0])
        self.tokens_out = max(0, _whole(tokens_out) - self.before[1])

    def go_on(self, session: str) -> None:
        """Take the session's name; another one than before has used nothing yet."""
        if session != self.session:
            self.session, self.before = session, (0, 0)


@dataclass(frozen=True, slots=True)
class Preset:
    """A known agent, or the user's own command."""

    name: str
    start: tuple[str, ...]
    resume: tuple[str, ...] = ()
    """Arguments that go on with a session, in the place of RESUME; empty where there are no sessions."""
    model: tuple[str, ...] = ()
    """Arguments that name the model, where the user chose one."""
    read: Callable[[AgentUsage, Mapping[str, Any]], None] = field(default=lambda usage, event: None)
    """Takes what an event, a line of JSON, says of usage and session."""
    trajectory: str = ""
    """A file that it writes in its folder instead, which says all at the end."""

    def command(self, prompt: str, *, session: str = "", model: str = "") -> list[str]:
        """The command line for a step."""
        groups = {MODEL: self.model if model else (), RESUME: self.resume if session else ()}
        words = [each for word in self.start for each in groups.get(word, (word,))]
        values = {PROMPT: prompt, SESSION: session, MODEL: model}
        return [_filled(word, values) for word in words]

    def take(self, usage: AgentUsage, line: str) -> None:
        """Read one line of output."""
        if not line.lstrip().startswith("{"):
            return
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self.read(usage, event)

    def collect(self, usage: AgentUsage, folder: Path) -> None:
        """Read the file that it left, and remove it: what it says counts once."""
        if not self.trajectory:
            return
        path = folder / self.trajectory
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(found, dict):
            self.read(usage, found)


def preset(chosen: str) -> Preset:
    """The agent of a name, or the user's own command; InvalidInput where its program cannot be found."""
    if chosen in PRESETS:
        found = PRESETS[chosen]
    else:
        try:
            words = tuple(shlex.split(chosen))
        except ValueError as error:
            raise InvalidInput(f"--avo-agent: {chosen!r} is no command: {error}") from None
        if not words:
            raise InvalidInput(f"--avo-agent: expected one of {', '.join(PRESETS)} or a command")
        found = Preset("command", words)
    if found.start and shutil.which(found.start[0]) is None:
        raise InvalidInput(f"--avo-agent {found.start[0]}: there is no such program on PATH")
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _claude(usage: AgentUsage, event: Mapping[str, Any]) -> None:
    if event.get("type") != "result":
        usage.session = str(event.get("session_id") or usage.session)
        return
    used = _object(event, "usage")
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    usage.add(sum(_whole(used.get(part)) for part in parts), used.get("output_tokens"), event.get("total_cost_usd"))
    usage.session = str(event.get("session_id") or usage.session)


def _codex(usage: AgentUsage, event: Mapping[str, Any]) -> None:
    if thread := event.get("thread_id"):
        usage.go_on(str(thread))
    if event.get("type") == "turn.completed":
        used = _object(event, "usage")
        usage.total(used.get("input_tokens"), used.get("output_tokens"))


def _gemini(usage: AgentUsage, event: Mapping[str, Any]) -> None:
    usage.session = str(event.get("session_id") or usage.session)
    if event.get("type") == "result":
        used = _object(event, "stats")
        usage.add(used.get("input_tokens"), used.get("output_tokens"))


def _opencode(usage: AgentUsage, event: Mapping[str, Any]) -> None:
    usage.session = str(event.get("sessionID") or usage.session)
    if event.get("type") == "step_finish":
        part = _object(event, "part")
        used, cache = _object(part, "tokens"), _object(_object(part, "tokens"), "cache")
        read = _whole(used.get("input")) + _whole(cache.get("read")) + _whole(cache.get("write"))
        usage.add(read, _whole(used.get("output")) + _whole(used.get("reasoning")), part.get("cost"))


def _mini_swe_agent(usage: AgentUsage, trajectory: Mapping[str, Any]) -> None:
    messages = trajectory.get("messages")
    for message in messages if isinstance(messages, list) else []:
        extra = _object(message, "extra") if isinstance(message, dict) else {}
        used = _object(_object(extra, "response"), "usage")
        usage.add(used.get("prompt_tokens"), used.get("completion_tokens"), extra.get("cost") or None)


PRESETS: Mapping[str, Preset] = {
    "claude": Preset(
        "claude",
        start=_words("claude -p {prompt} {resume} {model} --output-format stream-json --verbose")
        + _words("--allowedTools Bash,Read,Edit,Write,Glob,Grep"),
        resume=_words("--resume {session}"),
        model=_words("--model {model}"),
        read=_claude,
    ),
    # Its sandbox keeps commands from opening sockets, `avo` among them, unless the network is allowed; a login shell
    # would lose the PATH that `avo` is on.
    "codex": Preset(
        "codex",
        start=_words("codex exec --json --skip-git-repo-check --sandbox workspace-write")
        + _words("-c sandbox_workspace_write.network_access=true -c allow_login_shell=false {model} {resume} {prompt}"),
        resume=_words("resume {session}"),
        model=_words("--model {model}"),
        read=_codex,
    ),
    "gemini": Preset(
        "gemini",
        start=_words("gemini --yolo --skip-trust --output-format stream-json {model} {resume} -p {prompt}"),
        resume=_words("--resume {session}"),
        model=_words("--model {model}"),
        read=_gemini,
    ),
    "opencode": Preset(
        "opencode",
        start=_words("opencode run --format json {model} {resume} {prompt}"),
        resume=_words("--session {session}"),
        model=_words("--model {model}"),
        read=_opencode,
    ),
    "mini-swe-agent": Preset(
        "mini-swe-agent",
        start=_words("mini --yolo --exit-immediately --output .avo-trajectory.json {model} --task {prompt}"),
        model=_words("--model {model}"),
        read=_mini_swe_agent,
        trajectory=".avo-trajectory.json",
    ),
    WAIT: Preset(WAIT, start=()),
}


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        if name in word:
            return word.replace(name, value)  # one alone: what it stands for may hold the name of another
    return word


def _object(event: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = event.get(key)
    return found if isinstance(found, dict) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST_USED else 0
