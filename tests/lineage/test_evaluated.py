"""What is known of evaluations that were made, and what they came to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from pytest_avo.core.evaluation import Evaluation, Timing
from pytest_avo.lineage.evaluated import DRAFT, Evaluated
from pytest_avo.lineage.events import Raced, Spending
from pytest_avo.lineage.records import Attempt, Run
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View

FAILED = Evaluation("one", "incorrect", "differs", check_s=0.5)
CHECKED = Evaluation("two", "ok", check_s=0.25)
TIMED = Evaluation("two", "ok", time_s=1.0, timing=Timing({"kernel": ((1.0,),)}, calls=1, stopped="rounds"))


@pytest.fixture
def evaluated(store: Store, run: Run) -> Iterator[Evaluated]:
    with View(store.path, run.id) as view:
        yield Evaluated(view)


def attempt(store: Store, run: Run, parent: Attempt | None = None) -> Attempt:
    return store.add_attempt(
        run=run.id,
        generation=0 if parent is None else parent.generation + 1,
        member=0,
        parent=None if parent is None else parent.id,
        source="seed" if parent is None else f"over {parent.digest}",
        operator="test",
        hypothesis="",
        predicted={},
    )


def test_an_attempt_is_known_by_what_it_was_evaluated_for(store: Store, run: Run, evaluated: Evaluated) -> None:
    seed = attempt(store, run)
    store.add_evaluations(seed.id, "screen", [FAILED, TIMED])
    assert evaluated.of(seed, "screen") == {"one": FAILED, "two": TIMED}
    assert evaluated.of(seed, "confirm") == {}


def test_a_draft_is_known_where_asking_again_could_tell_nothing_new(
    store: Store, run: Run, evaluated: Evaluated
) -> None:
    seed = attempt(store, run)
    store.add_evaluations(seed.id, DRAFT, [FAILED, CHECKED], source="draft")
    assert evaluated.draft(seed, "draft", timed=False) == {"one": FAILED, "two": CHECKED}
    assert evaluated.draft(seed, "draft", timed=True) == {"one": FAILED}
    store.add_evaluations(seed.id, DRAFT, [TIMED], source="draft")
    assert evaluated.draft(seed, "draft", timed=True) == {"one": FAILED, "two": TIMED}
    assert evaluated.draft(seed, "another", timed=False) == {}


def test_what_was_evaluated_after_the_last_snapshot_was_spent_too(store: Store, run: Run, evaluated: Evaluated) -> None:
    seed = attempt(store, run)
    first = attempt(store, run, seed)
    assert evaluated.spending() is None
    snapshot = Spending(attempts=2, turns=7, tokens_in=90)
    store.add_event(run.id, snapshot)
    store.add_evaluations(seed.id, "screen", [TIMED])
    store.add_evaluations(first.id, "screen", [FAILED, TIMED])
    store.add_evaluations(first.id, DRAFT, [FAILED], source="draft")
    store.add_event(run.id, Raced(1, 0, first.digest, "g0007", evaluations=2, seconds=3.0, text="faster"))
    spent = msgspec.structs.replace(snapshot, attempts=1, evaluations=3, verifications=2, evaluator_s=6.0)
    assert evaluated.spending() == spent
