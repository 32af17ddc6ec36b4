"""What a run says while it goes on."""

from __future__ import annotations

from pytest_avo.run.console import Console
from tests.evolution.world import Screen


def test_lines_are_said_and_what_could_disturb_a_terminal_is_made_visible() -> None:
    screen = Screen()
    Console(lambda: screen).say("generation 1: \x1b[2J cleared", green=True)
    (line,) = screen.lines
    assert "\x1b" not in line
    assert line.startswith("generation 1: ")


def test_a_quiet_run_only_warns() -> None:
    screen = Screen()
    console = Console(lambda: screen, is_quiet=True)
    console.say("progress")
    console.tick("working")
    console.warn("the run stops")
    assert screen.lines == ["the run stops"]


def test_a_terminal_may_come_after_the_run_that_writes_to_it() -> None:
    screens: list[Screen] = []
    console = Console(lambda: screens[0] if screens else None)
    console.say("nobody hears this")
    console.tick("working")
    console.clear()
    screens.append(Screen())
    console.say("hello")
    assert screens[0].lines == ["hello"]
