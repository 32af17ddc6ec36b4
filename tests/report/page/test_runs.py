"""The page of a run: whole, small, quick, and nothing in it but what the template says."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.lineage.view import View
from pytest_avo.report.page.facts import RunFacts
from pytest_avo.report.page.runs import causes, runs_page
from tests.report.page.scripted import HOSTILE, SHAPES, scripted_run

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
    run = scripted_run(path, attempts=500)
    started = time.process_time()
    with View(path, run.id) as view:
        page = runs_page([Chronicle(view).facts()])
    assert time.process_time() - started < 5
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
