"""The supervisor: sees that the search is stuck, reviews the trajectory, and gives directions that attempts take up.

Detection is plain arithmetic on the lineage; only the review asks the model. Everything it does is an event.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from pytest_avo.core.likeness import normalised
from pytest_avo.lineage.events import Direction, DirectionLeft, Directions, DirectionTaken
from pytest_avo.lineage.records import Attempt, AttemptOutcome
from pytest_avo.lineage.view import View
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.knowledge.versions import version_name
from pytest_avo.operators.model.chat import ChatModel, Message
from pytest_avo.operators.model.reply import last_object

ALIKE = 0.8
"""Share of changed lines in common from which two edits of one parent are near-duplicates."""
REVIEW_TOKENS = 8192
MOST_OFFERS = 2
"""Attempts that a direction is given to, where they do not follow it."""
FRUITLESS = frozenset({"incorrect", "crashed", "timeout", "rejected", "unsupported", "failed", "duplicate"})


class Review(msgspec.Struct, frozen=True):
    """What the supervisor answers."""

    directions: list[Direction]
    diagnosis: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """A direction on record: of which event, at which place, and who took it up."""

    event: int
    index: int
    direction: Direction
    taken_by: tuple[int, int] | None
    """Generation and member of the attempt that follows it; one that left it is none, unless MOST_OFFERS did."""
    left_by: tuple[tuple[int, int], ...] = ()


def symptom(view: View, settings: AgentSettings) -> str:
    """What is wrong with the search, in words, or "".

    Only attempts since the last commit count, and for cycles those since the last review; after a review as many
    attempts as it gave directions pass before the next.
    """
    outcomes = view.outcomes()
    finished = [(attempt, outcomes[attempt.id]) for attempt in view.attempts() if attempt.id in outcomes]
    finished = [pair for pair in finished if pair[0].parent is not None]
    commits = [index for index, (_, outcome) in enumerate(finished) if outcome.status == "promoted"]
    fruitless = finished[commits[-1] + 1 :] if commits else finished
    reviews = view.events(Directions)
    reviewed = reviews[-1].fact.generation if reviews else 0
    since_review = [pair for pair in fruitless if pair[0].generation >= reviewed]
    if reviews and len(since_review) < settings.directions:
        return ""
    last = since_review[-settings.cycle :]
    if len(last) == settings.cycle:
        if same := _same_failure([outcome for _, outcome in last]):
            return f"the last {len(last)} attempts failed the same way ({same})"
        if _near_duplicates(view, [attempt for attempt, _ in last]):
            return f"the last {len(last)} attempts are near-duplicates of one another"
    if len(fruitless) >= settings.stall:
        return f"no commit in the last {len(fruitless)} attempts"
    return ""


def given(view: View) -> list[Given]:
    """All directions of the run, oldest first."""
    takings: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for taking in (event.fact for event in view.events(DirectionTaken)):
        takings.setdefault((taking.directions, taking.index), []).append((taking.generation, taking.member))
    leavings = [event.fact for event in view.events(DirectionLeft)]
    left = {(fact.directions, fact.index, fact.generation, fact.member) for fact in leavings}
    found: list[Given] = []
    for event in view.events(Directions):
        for index, direction in enumerate(event.fact.items):
            by = takings.get((event.id, index), [])
            left_by = tuple(step for step in by if (event.id, index, *step) in left)
            followed = [step for step in by if step not in left_by or len(left_by) >= MOST_OFFERS]
            found.append(Given(event.id, index, direction, followed[-1] if followed else None, left_by))
    return found


def direction_for(view: View, *, generation: int, member: int) -> Given | None:
    """The direction that an attempt has taken up already, else the next of the newest review's; None without one."""
    directions = given(view)
    for each in directions:
        if each.taken_by == (generation, member):
            return each
    if not directions or _committed_since(view, directions[-1].event):
        return None
    newest = [each for each in directions if each.event == directions[-1].event]
    return next((each for each in newest if each.taken_by is None), None)


def ledger_lines(view: View) -> list[str]:
    """Every direction given so far with what came of it, newest first."""
    outcomes = view.outcomes()
    ended = {
        (attempt.generation, attempt.member): (attempt, outcomes[attempt.id])
        for attempt in view.attempts()
        if attempt.id in outcomes
    }
    lines = []
    for each in reversed(given(view)):
        if each.taken_by is None:
            by = ", ".join(f"g{generation:04d}" for generation, _ in each.left_by)
            lines.append(f"not taken up{f' (left by {by})' if by else ''}: {each.direction.title}")
        elif each.taken_by in ended:
            attempt, outcome = ended[each.taken_by]
            lines.append(f"{version_name(attempt)} {outcome.status}: {each.direction.title} {outcome.reason}".rstrip())
        else:
            lines.append(f"g{each.taken_by[0]:04d} under way: {each.direction.title}")
    return lines


def _new(directions: Sequence[Direction], tried: Sequence[str]) -> list[Direction]:
    """The directions that differ from those tried, and from each other, in more than the spelling of their titles."""
    seen = {_words(title) for title in tried}
    found = []
    for direction in directions:
        if (words := _words(direction.title)) and words not in seen:
            seen.add(words)
            found.append(direction)
    return found


def _words(title: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", title.lower()))


def _committed_since(view: View, event: int) -> bool:
    """Whether a commit followed a review: what it was about is over then."""
    review = next(each for each in view.events(Directions) if each.id == event)
    outcomes = view.outcomes()
    generation = review.fact.generation
    return any(
        attempt.generation >= generation and attempt.id in outcomes and outcomes[attempt.id].status == "promoted"
        for attempt in view.attempts()
    )


def _same_failure(outcomes: Sequence[AttemptOutcome]) -> str:
    """The failure that all outcomes have in common, without the numbers in it, or ""."""
    kinds = {(outcome.status, re.sub(r"\d[\d.e+-]*", "#", outcome.reason)) for outcome in outcomes}
    if len(kinds) > 1:
        return ""
    status, reason = kinds.pop()
    return f"{status}: {reason}"[:200] if status in FRUITLESS else ""


def _near_duplicates(view: View, attempts: Sequence[Attempt]) -> bool:
    """Whether every attempt edits the same parent in nearly the way the one before it did."""
    if len({attempt.parent for attempt in attempts}) > 1:
        return False
    parent = attempts[0].parent
    assert parent is not None
    base = Counter(normalised(view.source(view.attempt(parent).digest)).splitlines())
    edits = [_changed_lines(base, view.source(attempt.digest)) for attempt in attempts]
    return all(_overlap(one, other) >= ALIKE for one, other in pairwise(edits))


def _changed_lines(base: Counter[str], source: str) -> Counter[str]:
    lines = Counter(normalised(source).splitlines())
    added, removed = lines - base, base - lines
    return Counter({f"+{line}": count for line, count in added.items()}) + Counter(
        {f"-{line}": count for line, count in removed.items()}
    )


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def review(chat: ChatModel, messages: Sequence[Message], *, count: int, tried: Sequence[str]) -> Review | None:
    """Ask for directions other than those with the titles `tried`, and no two alike.

    An answer that cannot be read, or says nothing new, is sent back once. None when there is none to be had.
    """
    conversation = list(messages)
    for _ in range(2):
        answer = chat.complete(conversation, max_output_tokens=REVIEW_TOKENS)
        try:
            found = msgspec.convert(last_object(answer.text) or {}, Review)
        except msgspec.ValidationError as error:
            problem = str(error).replace("`", "")
        else:
            if directions := _new(found.directions, tried):
                return msgspec.structs.replace(found, directions=directions[:count])
            problem = "all its directions were tried before" if found.directions else "there are no directions in it"
        text = f"That is of no use: {problem}. Answer with the JSON object alone."
        conversation += [answer.message(), {"role": "user", "content": text}]
    return None
