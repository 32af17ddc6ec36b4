"""The page of a run: whole, small, quick, and nothing in it but what the template says."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.lineage.events import Profiled
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View
from pytest_avo.report.page.facts import RunFacts
from pytest_avo.report.page.runs import causes, run_titles, runs_page
from tests.report.page.scripted import HOSTILE, SHAPES, scripted_run, source

VOID = {"meta", "link", "img", "br", "input", "hr"}
OPTIONAL = {"tr", "td", "th", "thead", "tbody", "li", "p"}


class Elements(HTMLParser):
    """All elements with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def facts(folder: Path, **said: object) -> RunFacts:
    path = folder / ".avo" / "lineage.sqlite3"
    run = scripted_run(path, **said)  # type: ignore[arg-type]
    with View(path, run.id) as view:
        return Chronicle(view).facts()


def test_five_hundred_attempts_take_seconds_and_less_than_three_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "lineage.sqlite3"
    begun = time.process_time()
    run = scripted_run(path, attempts=500)
    started = time.process_time()
    with View(path, run.id) as view:
        facts = Chronicle(view).facts()
    long = "words " * 800
    told = [replace(each, hypothesis=long, reason=long, lesson=long) for each in facts.attempts]
    page = runs_page([replace(facts, attempts=tuple(told))])
    # To read and show it takes about as long as to write it down, which is a second on an idle machine.
    assert time.process_time() - started < 8 * (started - begun)
    assert len(page.encode()) < 3_000_000
    assert len(Elements(page).of("details")) == 501


def test_no_text_of_a_kernel_or_a_model_becomes_an_element(tmp_path: Path) -> None:
    page = runs_page([facts(tmp_path, attempts=30)])
    assert HOSTILE not in page
    elements = Elements(page)
    assert len(elements.of("script")) == 1
    assert elements.of("img") == []
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r"bound by loads:[^<]*", page)[0]


def test_the_page_names_no_address_and_its_policy_allows_none(tmp_path: Path) -> None:
    page = runs_page([facts(tmp_path, attempts=5)])
    elements = Elements(page)
    links = [
        each.get(name) or "" for _, each in elements.found for name in ("href", "src", "xlink:href") if name in each
    ]
    assert all(link.startswith("#") or link == "data:," for link in links)
    policy = next(each["content"] or "" for each in elements.of("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert not [each for _, each in elements.found if "style" in each], "the policy would not let them work"


def test_every_attempt_is_told_with_its_diff_prediction_and_shapes(tmp_path: Path) -> None:
    run = facts(tmp_path, attempts=40, ends=False)
    page = runs_page([run])
    assert page.count("<summary>") == 41
    assert page.count('class="diff"') == 40
    assert page.count("under way</span>") >= 2
    assert "<ins>+    x1 = tl.<span class" not in page
    assert "<ins>+    x" in page
    assert all(shape in page for shape in SHAPES)
    for heading in ("Trajectory", "Promotions", "Lineage", "Shapes by attempts", "Calibration", "Ledger", "Settings"):
        assert f">{heading}</h" in page


def test_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    both = [facts(tmp_path / name, attempts=20, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    page = runs_page(both)
    first_chart = page[page.index("<svg", page.index('class="charts"')) :]
    first_chart = first_chart[: first_chart.index("</svg>")]
    assert 'class="best r0"' in first_chart
    assert 'class="best r1"' in first_chart
    ids = [each["id"] for _, each in Elements(page).found if "id" in each]
    assert len(ids) == len(set(ids))


def test_runs_of_one_number_are_told_apart_by_their_projects(tmp_path: Path) -> None:
    runs = [facts(tmp_path / name, attempts=2, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    assert run_titles(runs) == ["Run 1 of one", "Run 1 of two"]
    assert run_titles(runs[:1]) == ["Run 1"]
    assert run_titles([runs[0], runs[0]]) == ["Run 1 of one (a)", "Run 1 of one (b)"]
    page = runs_page(runs)
    assert page.count(">Run 1 of two<") == 1
    assert "<title>Run 1 of two, g0001" in page


def test_drafts_profiles_and_races_stand_where_they_were_made(tmp_path: Path) -> None:
    path = tmp_path / "lineage.sqlite3"
    run = scripted_run(path, attempts=3)
    samples: dict[str, tuple[tuple[float, ...], ...]] = {KERNEL: ((1.0, 1.0, 1.0),), BASELINE: ((1.5, 1.5, 1.5),)}
    with Store.open(path) as store, View(path, run.id) as view:
        seed = view.attempts()[0].id
        store.add_outcome(AttemptOutcome(seed, "seed"))
        timed = [Evaluation(shape, "ok", timing=Timing(samples, calls=1, stopped="")) for shape in SHAPES[:2]]
        store.add_evaluations(seed, "draft", timed, source=source(1))
        wrong = Evaluation(SHAPES[0], "incorrect", reason=HOSTILE)
        store.add_evaluations(seed, "draft", [wrong], source=source(99))
        store.add_event(run.id, Profiled(1, 0, "ab" * 32, SHAPES[0], 3.0, text=f"tensor pipe 84% {HOSTILE}"))
        found = Chronicle(view).facts()
    (before,) = (each for each in found.attempts if each.id == seed)
    (first,) = (each for each in found.attempts if each.name == "g0001")
    assert [(each.outcomes, each.timed, each.became) for each in before.drafts] == [
        (("ok", "ok"), 2, "g0001"),
        (("incorrect",), 0, ""),
    ]
    assert before.drafts[0].ratio == pytest.approx(1.5)
    assert [each.title for each in first.looks] == [f"profile of draft ababab on {SHAPES[0]}"]
    page = runs_page([found])
    assert "2 drafts evaluated on top of it" in page
    assert "tensor pipe 84%" in page
    assert HOSTILE not in page


def test_shapes_have_intervals_of_their_own(tmp_path: Path) -> None:
    run = facts(tmp_path, attempts=10)
    known = [found.ratio for each in run.attempts for found in each.shapes if found.ratio]
    assert all(ratio.low <= ratio.estimate <= ratio.high for ratio in known)
    assert "95% interval" in runs_page([run])


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    assert "Nothing was promoted" in runs_page([facts(tmp_path, attempts=1, ends=False)])


def test_islands_and_members_have_places_of_their_own(tmp_path: Path) -> None:
    page = runs_page([facts(tmp_path, attempts=160, members=4, islands=2)])
    assert "island 1" in page
    assert "edge transfer" in page


def test_reasons_that_differ_in_figures_alone_are_counted_together(tmp_path: Path) -> None:
    run = facts(tmp_path, attempts=60)
    found = causes(run)
    assert sum(each.number for each in found) == 60
    assert [each.number for each in found] == sorted((each.number for each in found), reverse=True)
    bad = next(each for each in found if each.status == "incorrect")
    assert [number for _, number in bad.reasons] == [bad.number]
