"""The page in a real browser: what people see and can do, and that nothing else happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.lineage.view import View
from pytest_avo.report.page.runs import runs_page
from pytest_avo.session.live import LivePage
from tests.report.page.scripted import scripted_run

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-dev-shm-usage",
)


NAMED = {
    "image", "graphics-document", "table", "list", "combobox", "searchbox", "link", "region", "article",
    "search", "DisclosureTriangle",
}  # fmt: skip
"""Roles of what somebody who does not see the page has to be told the name of."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as browser:
        yield browser


def requests(browser: Any) -> list[str]:
    """Addresses that the browser asked for since the last call."""
    events = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    found = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    own = ("data:", "chrome:")  # in the page itself, and the browser's own: a page can have none of these loaded
    return [each for each in found if not each.startswith(own)]


def test_a_page_shows_its_charts_filters_opens_and_runs_nothing_else(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "lineage.sqlite3"
    run = scripted_run(path, attempts=40)
    with View(path, run.id) as view:
        (tmp_path / "page.html").write_text(runs_page([Chronicle(view).facts()]), encoding="utf-8")
    requests(browser)  # those of the empty tab that a browser begins with
    browser.get((tmp_path / "page.html").as_uri())
    charts = browser.find_elements("css selector", "svg.chart")
    assert len(charts) >= 7
    assert all(each.size["width"] > 200 and each.size["height"] > 60 for each in charts)
    assert browser.title.startswith("Evolution of kernels/"), "a hostile text would have changed it"

    form = browser.find_element("css selector", ".filter")
    form.find_element("css selector", "select").send_keys("promoted")
    promoted = browser.find_elements("css selector", ".promotions li")
    shown = [each for each in browser.find_elements("css selector", ".attempts > details") if each.is_displayed()]
    assert len(shown) == len(promoted) > 0
    assert form.find_element("css selector", "output").text == f"{len(promoted)} shown"

    summary = shown[0].find_element("css selector", "summary")
    summary.send_keys("\n")  # by keyboard
    diff = shown[0].find_element("css selector", ".diff")
    assert diff.is_displayed()
    assert diff.find_element("css selector", "ins").text.startswith("+")
    form.find_element("css selector", "input").send_keys("no attempt says this")
    assert form.find_element("css selector", "output").text == "0 shown"
    form.find_element("css selector", "input").clear()
    form.find_element("css selector", "select").send_keys("all")
    nodes = [x for x in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"] if not x["ignored"]]
    assert [x["role"]["value"] for x in nodes].count("DisclosureTriangle") >= 41, (
        "attempts that are not in view are told too"
    )
    nameless = {each["role"]["value"] for each in nodes if not str(each.get("name", {}).get("value", "")).strip()}
    assert sorted(nameless & NAMED) == [], "a screen reader could not tell what it is"
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    for width in (1280, 400):
        browser.set_window_size(width, 900)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    assert requests(browser) == [(tmp_path / "page.html").as_uri()]


def test_a_live_page_follows_the_run(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "lineage.sqlite3"
    run = scripted_run(path, attempts=5)
    requests(browser)
    with View(path, run.id) as view, LivePage(view) as live:
        browser.get(live.address)
        browser.find_element("css selector", ".attempts > details summary").send_keys("\n")
        from pytest_avo.lineage.store import Store

        with Store.open(path) as store:
            store.add_attempt(
                run=run.id,
                generation=6,
                member=0,
                parent=1,
                source="x = 1\n",
                operator="agent",
                hypothesis="new on the page",
                predicted={},
            )
        wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(browser, 180)
        wait.until(lambda _: "new on the page" in browser.find_element("css selector", "main").text)
        assert browser.find_element("css selector", ".attempts > details").get_attribute("open"), "stays as it was"
        assert {each.rpartition("/")[0] for each in requests(browser)} == {live.address.rstrip("/")}
    assert browser.get_log("browser") == []
