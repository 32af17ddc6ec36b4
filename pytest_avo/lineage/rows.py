"""Rows of the lineage as the records that they stand for; the queries that select their columns are in `view`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import msgspec

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.database import Row, UnreadableLineage
from pytest_avo.lineage.events import Event, decoded
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Run, StoredEvaluation

Read = TypeVar("Read")
PREDICTED = msgspec.json.Decoder(dict[str, float])
BODY = msgspec.json.Decoder(Evaluation)


def _decoder(decode: Callable[[Row], Read]) -> Callable[[Row], Read]:
    """The decoder of a record, with UnreadableLineage where what is stored is nothing that a Store writes."""

    @wraps(decode)
    def decoded_row(row: Row) -> Read:
        try:
            return decode(row)
        except (msgspec.MsgspecError, TypeError) as error:
            what = decode.__name__.removesuffix("_of")
            raise UnreadableLineage(f"{what} {row[0]} of the lineage cannot be read: {error}") from None

    return decoded_row


@_decoder
def run_of(row: Row) -> Run:
    """A run, from a row of RUN."""
    number, kernel, target, operator, seed, shapes, fingerprint, started, settings = row
    return Run(
        id=number,
        kernel=kernel,
        target=target,
        operator=operator,
        seed=seed,
        shapes=msgspec.json.decode(shapes, type=tuple[str, ...]),
        fingerprint=msgspec.json.decode(fingerprint, type=Fingerprint),
        started=started,
        settings=msgspec.json.decode(settings, type=dict[str, str]),
    )


@_decoder
def attempt_of(row: Row) -> Attempt:
    """An attempt, from a row of ATTEMPT."""
    number, run, generation, member, island, parent, digest, operator, hypothesis, predicted, created = row
    ratios = PREDICTED.decode(predicted)
    return Attempt(number, run, generation, member, island, parent, digest, operator, hypothesis, ratios, created)


@_decoder
def outcome_of(row: Row) -> AttemptOutcome:
    """An outcome, from a row of OUTCOME."""
    _, attempt, status, reason, *rest = row
    return AttemptOutcome(
        attempt, status, reason, _interval(rest[0:3]), _interval(rest[3:6]), rest[6], _interval(rest[7:10]), *rest[10:]
    )


def _interval(columns: Sequence[float | None]) -> Interval | None:
    estimate, low, high = columns
    if estimate is None or low is None or high is None:
        return None
    return Interval(estimate, low, high)


@_decoder
def evaluation_of(row: Row) -> StoredEvaluation:
    """An evaluation, from a row of EVALUATION."""
    attempt, purpose, digest, body = row
    return StoredEvaluation(attempt, purpose, digest, BODY.decode(body))


@_decoder
def event_of(row: Row) -> Event[Any]:
    """An event, from a row of an EVENTS query."""
    number, run, time, kind, data = row
    return Event(number, run, time, decoded(kind, data))
