"""The ledger: what a run has spent, and its limits checked before anything is spent.

Spending is two steps. `reserve` asks for the most a model call may use and fails if that could pass a limit;
`settle` puts what was really used in its place. A limit that stops a run therefore never discards a call already paid
for, and calls made at the same time cannot pass a limit together.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pytest_avo.lineage.events import Spending
from pytest_avo.operators.budget import Budget, BudgetExhausted, Prices
from pytest_avo.report.text import duration

if TYPE_CHECKING:
    from collections.abc import Callable


_UNLIMITED = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Tokens set aside for one model call; `tokens_out` is the most that the call may answer with."""

    number: int
    tokens_in: int
    tokens_out: int


class Ledger:
    """Counts a run's spending and refuses what could pass a limit. Safe to use from several threads."""

    def __init__(
        self,
        limits: Budget,
        prices: Prices | None = None,
        *,
        spent: Spending | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at `spent`, the snapshot of an interrupted run, or at nothing."""
        for name in ("max_tokens", "max_cost", "max_time_s", "max_evaluations"):
            value = getattr(limits, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if limits.max_cost is not None and prices is None:
            raise ValueError("max_cost: expected the model's prices per million tokens too: nothing else tells a cost")
        self.limits = limits
        self.prices = prices
        self._spent = spent or Spending()
        self._clock = clock
        self._started = clock() - self._spent.wall_s
        self._open: dict[int, Reservation] = {}
        self._numbers = 0
        self._lock = threading.Lock()

    def reserve(self, *, tokens_in: int, tokens_out: int, least_out: int = 1) -> Reservation:
        """Set tokens aside for one model call, or raise `BudgetExhausted`.

        The answer is granted `tokens_out` tokens, or what the limits still allow if that is at least `least_out`:
        pass the granted number to the model as its limit.
        """
        with self._lock:
            self._check_time(0.0)
            granted = tokens_out
            for limit, room in self._room(tokens_in).items():
                granted = min(granted, room)
                if granted < min(least_out, tokens_out):
                    raise self._exhausted(limit, tokens_in + min(least_out, tokens_out))
            self._numbers += 1
            reservation = Reservation(number=self._numbers, tokens_in=tokens_in, tokens_out=granted)
            self._open[reservation.number] = reservation
            return reservation

    def settle(self, reservation: Reservation, *, tokens_in: int, tokens_out: int) -> None:
        """Replace a reservation by the tokens that the call really used: zero for one that failed unanswered."""
        with self._lock:
            if self._open.pop(reservation.number, None) is None:
                raise ValueError(f"reservation {reservation.number} is not open: it was settled before")
            self._spent = msgspec.structs.replace(
                self._spent,
                turns=self._spent.turns + 1,
                tokens_in=self._spent.tokens_in + tokens_in,
                tokens_out=self._spent.tokens_out + tokens_out,
                cost=self._added_cost(tokens_in, tokens_out),
            )

    def add_usage(self, *, tokens_in: int, tokens_out: int, cost: float | None) -> None:
        """Count what a program used that asks its model itself; `cost` where it told one, else prices say it."""
        if not tokens_in and not tokens_out and not cost:
            return
        with self._lock:
            before = self._spent.cost
            self._spent = msgspec.structs.replace(
                self._spent,
                turns=self._spent.turns + 1,
                tokens_in=self._spent.tokens_in + tokens_in,
                tokens_out=self._spent.tokens_out + tokens_out,
                cost=self._added_cost(tokens_in, tokens_out) if cost is None else (before or 0.0) + cost,
            )

    def cost_of(self, *, tokens_in: int, tokens_out: int, cost: float | None) -> float:
        """The price of such usage: as it was told, else by the user's prices, else nothing."""
        if cost is not None:
            return cost
        return 0.0 if self.prices is None else self.prices.cost(tokens_in=tokens_in, tokens_out=tokens_out)

    def why_over(self, *, tokens_in: int = 0, tokens_out: int = 0, cost: float | None = None) -> str:
        """Why a program that has used so much must be ended: which limit is reached; "" where none is."""
        with self._lock:
            limits, spent = self.limits, self._spent
            tokens = spent.tokens_in + spent.tokens_out + tokens_in + tokens_out
            if limits.max_tokens is not None and tokens >= limits.max_tokens:
                return f"{tokens:,} of {limits.max_tokens:,} tokens are spent"
            price = (spent.cost or 0.0) + self.cost_of(tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)
            if limits.max_cost is not None and price >= limits.max_cost:
                return f"{price:.2f} of {limits.max_cost:.2f} are spent"
            return ""

    def check_tokens(self) -> None:
        """Raise `BudgetExhausted` where no program that asks its model itself may be started any more."""
        if reason := self.why_over():
            raise BudgetExhausted("max_cost" if self.limits.max_cost is not None else "max_tokens", reason)

    def begin_attempt(self, *, evaluations: int = 0) -> None:
        """Count one variation attempt, whose candidate takes up to so many evaluations to verify.

        `BudgetExhausted` if the run's time is over, or if it may not make so many any more.
        """
        with self._lock:
            self._check_time(0.0)
            left = self._evaluations_left()
            if left is not None and left < evaluations:
                limit = self.limits.max_evaluations
                made = f"{self._spent.evaluations + self._spent.verifications:,} of {limit:,} evaluations are made"
                raise BudgetExhausted("max_evaluations", f"{made}, an attempt needs up to {evaluations:,}")
            self._spent = msgspec.structs.replace(self._spent, attempts=self._spent.attempts + 1)

    def check_time(self, expected_s: float = 0.0) -> None:
        """Raise `BudgetExhausted` if work expected to take so many seconds would end after the run's time."""
        with self._lock:
            self._check_time(expected_s)

    def add_evaluation(self, seconds: float) -> None:
        """Count one evaluation asked for by the operator and the time the evaluator spent on it."""
        with self._lock:
            self._spent = msgspec.structs.replace(
                self._spent,
                evaluations=self._spent.evaluations + 1,
                evaluator_s=self._spent.evaluator_s + seconds,
            )

    def add_verifications(self, number: int, seconds: float) -> None:
        """Count evaluations of a candidate by the run itself and the time the evaluator spent on them."""
        with self._lock:
            self._spent = msgspec.structs.replace(
                self._spent,
                verifications=self._spent.verifications + number,
                evaluator_s=self._spent.evaluator_s + seconds,
            )

    def evaluations_left(self) -> int | None:
        """How many evaluations the run may still make, `None` where there is no limit."""
        with self._lock:
            return self._evaluations_left()

    def snapshot(self) -> Spending:
        """What is spent by now, without what is only reserved."""
        with self._lock:
            return msgspec.structs.replace(self._spent, wall_s=self._clock() - self._started)

    def time_left_s(self) -> float | None:
        """Seconds until the time limit (not below zero), `None` where there is no limit."""
        if self.limits.max_time_s is None:
            return None
        return max(0.0, self.limits.max_time_s - (self._clock() - self._started))

    def preflight(self) -> str:
        """One line that says what the run may spend, and what a resumed run has spent already."""
        limits = self.limits
        allowed = []
        if limits.max_tokens is not None:
            allowed.append(f"{limits.max_tokens:,} tokens")
        if limits.max_cost is not None:
            allowed.append(f"a cost of {limits.max_cost:.2f}")
        if limits.max_time_s is not None:
            allowed.append(f"{duration(limits.max_time_s)} of wall time")
        if limits.max_evaluations is not None:
            allowed.append(f"{limits.max_evaluations:,} evaluations")
        line = "may spend up to " + " and ".join(allowed) if allowed else "no limit on tokens, cost or time"
        if self.prices is not None:
            each = self.prices
            line += f"; a million tokens cost {each.input_per_million:g} in and {each.output_per_million:g} out"
        spent = self._spent
        if spent.turns or spent.attempts:
            line += f"; spent so far: {spent.tokens_in + spent.tokens_out:,} tokens"
            if spent.cost is not None:
                line += f", cost {spent.cost:.2f}"
            line += f", {duration(spent.wall_s)}"
        return line

    def summary_rows(self) -> list[tuple[str, str, str]]:
        """The ledger for the end of the run: rows of what was counted, how much, and its limit (empty where none)."""
        spent, limits = self.snapshot(), self.limits
        total = spent.tokens_in + spent.tokens_out
        rows = [
            ("attempts begun", f"{spent.attempts:,}", ""),
            ("model turns", f"{spent.turns:,}", ""),
            ("tokens in", f"{spent.tokens_in:,}", ""),
            ("tokens out", f"{spent.tokens_out:,}", ""),
            ("tokens", f"{total:,}", "" if limits.max_tokens is None else f"{limits.max_tokens:,}"),
        ]
        if self.prices is not None:
            limit = "" if limits.max_cost is None else f"{limits.max_cost:.2f}"
            rows.append(("cost", f"{spent.cost or 0.0:.2f}", limit))
        rows.append(("evaluations of drafts", f"{spent.evaluations:,}", ""))
        rows.append(("evaluations of candidates", f"{spent.verifications:,}", ""))
        if limits.max_evaluations is not None:
            made = spent.evaluations + spent.verifications
            rows.append(("evaluations of both", f"{made:,}", f"{limits.max_evaluations:,}"))
        rows.append(("evaluator time", duration(spent.evaluator_s), ""))
        rows.append(
            ("wall time", duration(spent.wall_s), "" if limits.max_time_s is None else duration(limits.max_time_s))
        )
        return rows

    def _check_time(self, expected_s: float) -> None:
        limit = self.limits.max_time_s
        if limit is None:
            return
        used = self._clock() - self._started
        if used + expected_s >= limit:
            coming = f" and the next step takes about {duration(expected_s)}" if expected_s else ""
            raise BudgetExhausted("max_time", f"{duration(used)} of {duration(limit)} are over{coming}")

    def _evaluations_left(self) -> int | None:
        if self.limits.max_evaluations is None:
            return None
        return max(0, self.limits.max_evaluations - self._spent.evaluations - self._spent.verifications)

    def _room(self, tokens_in: int) -> dict[str, int]:
        """For each limit the output tokens it leaves beside so many input tokens; below zero: not even those."""
        room = {}
        reserved_in = sum(each.tokens_in for each in self._open.values())
        reserved_out = sum(each.tokens_out for each in self._open.values())
        if self.limits.max_tokens is not None:
            used = self._spent.tokens_in + self._spent.tokens_out + reserved_in + reserved_out
            room["max_tokens"] = self.limits.max_tokens - used - tokens_in
        if self.limits.max_cost is not None and self.prices is not None:
            reserved = self.prices.cost(tokens_in=reserved_in + tokens_in, tokens_out=reserved_out)
            left = self.limits.max_cost - (self._spent.cost or 0.0) - reserved
            per_token = self.prices.output_per_million / 1e6
            room["max_cost"] = -1 if left < 0 else int(left / per_token) if per_token > 0 else _UNLIMITED
        return room

    def _exhausted(self, limit: str, tokens: int) -> BudgetExhausted:
        spent, limits = self._spent, self.limits
        if limit == "max_tokens":
            state = f"{spent.tokens_in + spent.tokens_out:,} of {limits.max_tokens:,} tokens are spent"
        else:
            state = f"{spent.cost or 0.0:.2f} of {limits.max_cost:.2f} are spent"
        in_flight = f" (calls in flight: {len(self._open)})" if self._open else ""
        return BudgetExhausted(limit, f"{state}{in_flight}, the next call needs about {tokens:,} tokens")

    def _added_cost(self, tokens_in: int, tokens_out: int) -> float | None:
        if self.prices is None:
            return self._spent.cost
        return (self._spent.cost or 0.0) + self.prices.cost(tokens_in=tokens_in, tokens_out=tokens_out)
