"""What means nothing in a mode, or to an operator, is a usage error that names both."""

from __future__ import annotations

from itertools import chain

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.run.mode import MODES, Mode
from pytest_avo.session.options.choices import Choices, asked, chosen_mode, is_asked, with_place
from pytest_avo.session.options.measuring import MODE_OPTIONS
from pytest_avo.session.options.option import Option
from pytest_avo.session.options.table import OPTIONS
from pytest_avo.session.reading import read_settings

pytest_plugins = ["pytester"]
SETTABLE = [option for option in OPTIONS.values() if option.section != "mode"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


def given(option: Option, flag: str = "") -> list[str]:
    """An option as a user writes it, with a value that it takes."""
    if option.kind == "switch":
        return [flag or option.flag]
    number = str(max(option.least or 1, 1))
    value = option.choices[0] if option.choices else "some" if option.kind in ("text", "texts") else number
    return [flag or option.flag, value]


@pytest.mark.parametrize("mode", MODES)
def test_an_option_that_means_nothing_in_a_mode_is_refused(pytester: pytest.Pytester, mode: Mode) -> None:
    config = pytester.parseconfig(*chain.from_iterable(map(given, SETTABLE)), *given(MODE_OPTIONS[mode]))
    for option in SETTABLE:
        if mode not in option.modes:
            with pytest.raises(InvalidInput, match=f"^{option.flag}: goes with --avo-.*, not with --avo-{mode}$"):
                read_settings(config)
            setattr(config.option, option.name, None)
    Choices(config, mode).refuse_foreign()


def test_every_option_without_a_mode_is_refused(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig(*chain.from_iterable(map(given, SETTABLE)))
    for option in SETTABLE:
        with pytest.raises(pytest.UsageError, match=f"^{option.flag}: expected .*--avo-.* too$"):
            is_asked(config)
        setattr(config.option, option.name, None)
    assert not is_asked(config)


def test_nothing_asked_is_no_run(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("-q")
    assert not is_asked(config)
    assert read_settings(config) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--avo-knowledge", "/nope"], "^--avo-knowledge: goes with --avo-operator agent or .*, not with tuner, "),
        (["--avo-operator", "tuner", "--avo-model", "m"], "^--avo-model: goes with --avo-operator .*, not with tuner$"),
        (["--avo-operator", "oneshot", "--avo-turns", "3"], "^--avo-turns: goes with --avo-operator agent, not with "),
        (["--avo-operator", "mine:It", "--avo-replay", "3"], "^--avo-replay: goes with .*, not with mine:It$"),
        (["--avo-max-tokens", "5"], "^--avo-max-tokens: goes with .* or MODULE:ATTRIBUTE, not with tuner, the default"),
    ],
)  # fmt: skip
def test_an_option_that_means_nothing_to_the_operator_is_refused(
    pytester: pytest.Pytester, arguments: list[str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_settings(pytester.parseconfig("--avo-evolve", *arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--avo-operator", "mine:It", "--avo-max-tokens", "5"],
        ["--avo-operator", "tuner", "--avo-max-evaluations", "5"],
        ["--avo-operator", "agent", "--avo-turns", "5", "--avo-model", "m"],
        ["--avo-model", "m", "--avo-turns", "5"],  # no key: the run says why the model is not asked
        ["--avo-replay", "1", "--avo-stall", "5"],
    ],
)
def test_an_option_of_the_operator_is_taken(pytester: pytest.Pytester, arguments: list[str]) -> None:
    assert read_settings(pytester.parseconfig("--avo-evolve", *arguments)) is not None


def test_addopts_of_a_project_are_defaults_and_break_no_other_run(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naddopts = --avo-population 3 --avo-compare git:main\n")
    assert not is_asked(pytester.parseconfig())
    bench = read_settings(pytester.parseconfig("--avo-bench"))
    assert bench is not None
    assert (bench.population, bench.gate.compare) == (1, "git:main")
    evolution = read_settings(pytester.parseconfig("--avo-evolve"))
    assert evolution is not None
    assert (evolution.population, evolution.gate.compare) == (3, None)


def test_the_environment_is_asked_of_this_very_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--avo-compare-fail=3%")
    with pytest.raises(pytest.UsageError, match=r"^--avo-compare-fail: expected --avo-bench too$"):
        is_asked(pytester.parseconfig())


def test_a_default_that_is_written_out_is_asked_for_too(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("--avo-generations=20", "--avo-sandbox", "auto")
    assert [option.flag for option in asked(config)] == ["--avo-sandbox", "--generations"]


def test_command_line_before_environment_before_ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\navo_peers = of-the-ini\n")
    assert Choices(pytester.parseconfig(), "bench").text("avo_peers") == "of-the-ini"
    monkeypatch.setenv("PYTEST_AVO_PEERS", "of-the-environment")
    assert Choices(pytester.parseconfig(), "bench").text("avo_peers") == "of-the-environment"
    config = pytester.parseconfig("--avo-peers", "given")
    assert Choices(config, "bench").text("avo_peers") == "given"


def test_two_modes_are_one_too_many(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("--avo-bench", "--avo-selftest")
    with pytest.raises(InvalidInput, match=r"^--avo-bench and --avo-selftest: expected one of them$"):
        chosen_mode(config)


SHARED = [option for option in OPTIONS.values() if option.has_ini]


@pytest.mark.parametrize("option", SHARED, ids=lambda option: option.name)
def test_a_mistake_is_told_with_the_place_of_its_value(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: Option
) -> None:
    pytester.makeini(f"[pytest]\n{option.ini_key} = x\n")
    mistake = f"{option.flag} x: expected y"
    config = pytester.parseconfig("--avo-evolve")
    assert with_place(config, mistake) == f"{mistake} (from the ini key {option.ini_key} of {config.inipath})"
    monkeypatch.setenv(option.variable, "x")
    assert with_place(config, mistake) == f"{mistake} (from the variable {option.variable})"
    assert with_place(pytester.parseconfig("--avo-evolve", option.flag, "x"), mistake) == mistake


@pytest.mark.parametrize(
    "arguments",
    [
        ("--avo-bench", "--avo-json"),
        ("--avo-serve",),
        ("--avo-evolve", "--avo-operator=inbox", "--avo-inbox"),
        ("--avo-evolve", "--avo-operator=agent", "--avo-knowledge"),
    ],
)
def test_an_empty_path_does_not_mean_the_present_folder(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match=f"{arguments[-1]}: expected a path, got ''"):
        read_settings(pytester.parseconfig(*arguments, ""))


def test_a_mistake_that_is_of_no_such_option_stays_as_it_is(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\navo_agent = x\navo_model = x\n")
    for mistake in ("--avo-model-timeout: expected at least 1, got 0", "k.py: AVO", "--avo-peers: unknown peer 'x'"):
        assert with_place(pytester.parseconfig("--avo-evolve"), mistake) == mistake
