"""The ledger: nothing is spent past a limit, nothing spent is lost."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_avo.lineage.events import Spending
from pytest_avo.operators.budget import Budget, BudgetExhausted, Prices
from pytest_avo.operators.ledger import Ledger

PRICES = Prices(input_per_million=2.0, output_per_million=8.0)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_settled_calls_are_counted_with_their_cost() -> None:
    ledger = Ledger(Budget(), PRICES)
    call = ledger.reserve(tokens_in=1000, tokens_out=4000)
    assert ledger.snapshot().tokens_in == 0
    ledger.settle(call, tokens_in=900, tokens_out=100)
    spent = ledger.snapshot()
    assert (spent.turns, spent.tokens_in, spent.tokens_out) == (1, 900, 100)
    assert spent.cost == pytest.approx((900 * 2 + 100 * 8) / 1e6)


def test_without_prices_there_is_no_cost() -> None:
    ledger = Ledger(Budget())
    ledger.settle(ledger.reserve(tokens_in=1, tokens_out=1), tokens_in=1, tokens_out=1)
    assert ledger.snapshot().cost is None
    assert "cost" not in [row[0] for row in ledger.summary_rows()]


def test_answer_is_granted_what_the_token_limit_leaves() -> None:
    ledger = Ledger(Budget(max_tokens=1000))
    assert ledger.reserve(tokens_in=300, tokens_out=500, least_out=100).tokens_out == 500
    assert ledger.reserve(tokens_in=50, tokens_out=500, least_out=100).tokens_out == 150


def test_token_limit_stops_before_spending() -> None:
    ledger = Ledger(Budget(max_tokens=1000))
    ledger.settle(ledger.reserve(tokens_in=500, tokens_out=300), tokens_in=500, tokens_out=250)
    with pytest.raises(
        BudgetExhausted,
        match=r"^budget exhausted \(max_tokens\): 750 of 1,000 tokens are spent, the next call needs about 300 tokens$",
    ) as caught:
        ledger.reserve(tokens_in=200, tokens_out=500, least_out=100)
    assert caught.value.limit == "max_tokens"
    assert ledger.snapshot().tokens_in == 500


def test_cost_limit_stops_before_spending() -> None:
    ledger = Ledger(Budget(max_cost=0.01), PRICES)
    ledger.settle(ledger.reserve(tokens_in=1000, tokens_out=500), tokens_in=1000, tokens_out=500)
    assert ledger.reserve(tokens_in=1000, tokens_out=500, least_out=1).tokens_out == 250
    with pytest.raises(BudgetExhausted, match=r"\(max_cost\): 0.01 of 0.01 are spent \(calls in flight: 1\), the next"):
        ledger.reserve(tokens_in=1000, tokens_out=500)


def test_free_output_leaves_only_the_input_to_pay() -> None:
    ledger = Ledger(Budget(max_cost=1.0), Prices(input_per_million=1.0, output_per_million=0.0))
    assert ledger.reserve(tokens_in=1000, tokens_out=10**9).tokens_out == 10**9


def test_reservation_is_settled_once() -> None:
    ledger = Ledger(Budget())
    call = ledger.reserve(tokens_in=1, tokens_out=1)
    ledger.settle(call, tokens_in=0, tokens_out=0)
    with pytest.raises(ValueError, match="settled before"):
        ledger.settle(call, tokens_in=1, tokens_out=1)


def test_failed_call_gives_its_reservation_back() -> None:
    ledger = Ledger(Budget(max_tokens=100))
    ledger.settle(ledger.reserve(tokens_in=50, tokens_out=50), tokens_in=0, tokens_out=0)
    assert ledger.reserve(tokens_in=50, tokens_out=50).tokens_out == 50


def test_time_limit_stops_calls_attempts_and_planned_work() -> None:
    clock = Clock()
    ledger = Ledger(Budget(max_time_s=60.0), clock=clock)
    ledger.begin_attempt()
    clock.now_s += 50
    ledger.check_time(9.0)
    assert ledger.time_left_s() == pytest.approx(10.0)
    with pytest.raises(BudgetExhausted, match=r"50.0 s of 1 min 00 s are over and the next step takes about 20.0 s"):
        ledger.check_time(20.0)
    clock.now_s += 10
    with pytest.raises(BudgetExhausted, match="max_time"):
        ledger.reserve(tokens_in=1, tokens_out=1)
    with pytest.raises(BudgetExhausted, match="max_time"):
        ledger.begin_attempt()
    assert ledger.snapshot().attempts == 1


def test_resumed_ledger_goes_on_from_the_snapshot() -> None:
    clock = Clock()
    before = Spending(attempts=3, turns=9, tokens_in=600, tokens_out=300, cost=0.5, evaluator_s=7.0, wall_s=100.0)
    ledger = Ledger(Budget(max_tokens=1000, max_time_s=120.0), PRICES, spent=before, clock=clock)
    clock.now_s += 5
    ledger.add_evaluation(2.5)
    now = ledger.snapshot()
    assert (now.wall_s, now.evaluator_s, now.evaluations, now.attempts) == (105.0, 9.5, 1, 3)
    assert "spent so far: 900 tokens, cost 0.50, 1 min 40 s" in ledger.preflight()
    with pytest.raises(BudgetExhausted, match="max_tokens"):
        ledger.reserve(tokens_in=100, tokens_out=10)


@pytest.mark.parametrize(
    ("limits", "prices", "line"),
    [
        (Budget(), None, "no limit on tokens, cost or time"),
        (Budget(max_tokens=2_000_000), None, "may spend up to 2,000,000 tokens"),
        (
            Budget(max_cost=5.0, max_time_s=5400.0),
            PRICES,
            "may spend up to a cost of 5.00 and 1 h 30 min of wall time; a million tokens cost 2 in and 8 out",
        ),
    ],
)
def test_preflight_line(limits: Budget, prices: Prices | None, line: str) -> None:
    assert Ledger(limits, prices).preflight() == line


def test_summary_rows_name_counts_and_limits() -> None:
    clock = Clock()
    ledger = Ledger(Budget(max_tokens=5000, max_cost=1.0, max_time_s=7200.0), PRICES, clock=clock)
    ledger.begin_attempt()
    ledger.settle(ledger.reserve(tokens_in=1000, tokens_out=500), tokens_in=1000, tokens_out=500)
    ledger.add_evaluation(61.0)
    clock.now_s += 3600
    assert ledger.summary_rows() == [
        ("attempts begun", "1", ""),
        ("model turns", "1", ""),
        ("tokens in", "1,000", ""),
        ("tokens out", "500", ""),
        ("tokens", "1,500", "5,000"),
        ("cost", "0.01", "1.00"),
        ("evaluations of drafts", "1", ""),
        ("evaluations of candidates", "0", ""),
        ("evaluator time", "1 min 01 s", ""),
        ("wall time", "1 h 00 min", "2 h 00 min"),
    ]


def test_evaluations_of_drafts_and_candidates_share_a_limit() -> None:
    ledger = Ledger(Budget(max_evaluations=10))
    ledger.begin_attempt(evaluations=4)
    ledger.add_evaluation(1.0)
    assert ledger.evaluations_left() == 9
    ledger.add_verifications(4, 2.0)
    ledger.begin_attempt(evaluations=5)
    ledger.add_evaluation(1.0)
    with pytest.raises(
        BudgetExhausted,
        match=r"^budget exhausted \(max_evaluations\): 6 of 10 evaluations are made, an attempt needs up to 5$",
    ):
        ledger.begin_attempt(evaluations=5)
    assert ledger.snapshot().attempts == 2
    assert ("evaluations of both", "6", "10") in ledger.summary_rows()
    assert ("evaluator time", "4.0 s", "") in ledger.summary_rows()
    assert "10 evaluations" in ledger.preflight()


def test_without_a_limit_evaluations_never_run_out() -> None:
    ledger = Ledger(Budget())
    ledger.begin_attempt(evaluations=10**9)
    assert ledger.evaluations_left() is None


@pytest.mark.parametrize("limits", [Budget(max_tokens=0), Budget(max_cost=-1.0), Budget(max_time_s=float("nan"))])
def test_limit_must_be_positive(limits: Budget) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        Ledger(limits, PRICES)


def test_cost_limit_needs_prices() -> None:
    with pytest.raises(ValueError, match="prices per million tokens"):
        Ledger(Budget(max_cost=1.0))


def test_calls_at_the_same_time_cannot_pass_a_limit_together() -> None:
    ledger = Ledger(Budget(max_tokens=1000))
    granted: list[int] = []

    def call() -> None:
        try:
            granted.append(ledger.reserve(tokens_in=50, tokens_out=50, least_out=50).tokens_out)
        except BudgetExhausted:
            granted.append(-1)

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [-1] * 6 + [50] * 10


calls = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 400), st.integers(1, 400), st.floats(0.0, 1.0)), max_size=30
)


@given(calls, st.integers(1, 3000), st.floats(0.001, 0.02))
def test_honest_estimates_never_pass_a_limit(
    wanted: list[tuple[int, int, int, float]], max_tokens: int, max_cost: float
) -> None:
    ledger = Ledger(Budget(max_tokens=max_tokens, max_cost=max_cost), PRICES)
    for tokens_in, tokens_out, least_out, used in wanted:
        try:
            call = ledger.reserve(tokens_in=tokens_in, tokens_out=tokens_out, least_out=least_out)
        except BudgetExhausted:
            continue
        ledger.settle(call, tokens_in=tokens_in, tokens_out=int(call.tokens_out * used))
    spent = ledger.snapshot()
    assert spent.tokens_in + spent.tokens_out <= max_tokens
    assert spent.cost is None or spent.cost <= max_cost * (1 + 1e-9)
