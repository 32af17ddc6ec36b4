"""Options of a model and of limits: what they mean, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.budget import Budget, Prices
from pytest_avo.operators.catalogue import load_operator
from pytest_avo.operators.entry import OperatorChoices
from pytest_avo.run.settings import Settings
from pytest_avo.session.reading import read_settings
from tests.plugin.conftest import SLOW, Project


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def settings(project: Project, *arguments: str) -> Settings:
    # A plain run of the options: an evolution would be set up at once.
    config = project.pytester.parseconfig(*arguments)
    config.option.avo_evolve = True
    found = read_settings(config)
    assert found is not None
    return found


def chosen(found: Settings) -> OperatorChoices:
    return OperatorChoices(agent=found.agent, folder=found.store)


def test_defaults(project: Project) -> None:
    found = settings(project)
    assert (found.operator, found.budget, found.prices) == ("tuner", Budget(), None)
    assert (found.agent.model, found.agent.base_url, found.agent.replay) == ("", None, None)


@pytest.mark.parametrize(
    ("arguments", "key", "operator"),
    [
        (["--avo-model", "m"], "", "tuner"),
        (["--avo-model", "m"], "a-key", "agent"),
        (["--avo-model", "m", "--avo-base-url", "http://localhost:1/v1"], "", "agent"),
        ([], "a-key", "tuner"),
        (["--avo-replay", "1"], "", "agent"),
    ],
)
def test_the_agent_is_the_default_where_a_model_can_be_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch, arguments: list[str], key: str, operator: str
) -> None:
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    found = settings(project, *arguments)
    assert found.operator == operator
    is_told = arguments == ["--avo-model", "m"] and not key
    assert (found.without_model == "") is not is_told


def test_a_server_from_the_environment_can_be_asked_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert settings(project, "--avo-model", "m").operator == "agent"


@pytest.mark.usefixtures("scripted")
def test_a_model_that_cannot_be_asked_is_said(project: Project) -> None:
    project.kernel("slow.py", SLOW.replace("return _once(", "return 2 * _once("))
    result = project.run("--avo-evolve", "kernels/slow.py", "--avo-model", "m", "--generations", "1")
    result.stdout.fnmatch_lines(
        [
            "starting run 1: *operator tuner*",
            "m is not asked: OPENAI_API_KEY is not set, and no --avo-base-url names a server without keys",
        ]
    )


def test_model_and_server_from_environment_and_ini(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.pytester.makeini("[pytest]\navo_model = from-ini\navo_base_url = http://ini/v1\n")
    assert (settings(project).agent.model, settings(project).agent.base_url) == ("from-ini", "http://ini/v1")
    monkeypatch.setenv("PYTEST_AVO_MODEL", "from-environment")
    assert settings(project).agent.model == "from-environment"
    assert settings(project, "--avo-model", "typed").agent.model == "typed"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("30min", 1800.0), ("2h", 7200.0), ("1.5 h", 5400.0)])
def test_durations(project: Project, text: str, seconds: float) -> None:
    assert settings(project, "--avo-max-time", text).budget.max_time_s == seconds


def test_limits_and_prices(project: Project) -> None:
    project.pytester.makeini("[pytest]\navo_price_input = 1.25\navo_price_output = 10\n")
    limits = ["--avo-max-tokens", "5000", "--avo-max-cost", "2.5", "--avo-max-evaluations", "40"]
    found = settings(project, "--avo-operator", "agent", *limits)
    assert found.budget == Budget(max_tokens=5000, max_cost=2.5, max_evaluations=40)
    assert found.prices == Prices(input_per_million=1.25, output_per_million=10.0)


@pytest.mark.parametrize(
    ("arguments", "ini", "message"),
    [
        (["--avo-max-time", "soon"], "", "--avo-max-time: expected a duration such as 90s, 30min or 2h, got 'soon'"),
        (["--avo-max-time", "0s"], "", "--avo-max-time: expected a duration"),
        (["--avo-max-tokens", "0"], "", "--avo-max-tokens: expected at least 1, got 0"),
        (["--avo-max-cost", "nan"], "", "--avo-max-cost: expected a number above zero"),
        (["--avo-max-cost", "1"], "", "--avo-max-cost: expected the ini keys avo_price_input and avo_price_output too"),
        ([], "avo_price_input = 1", "expected both or neither"),
        ([], "avo_price_input = cheap\navo_price_output = 1", "avo_price_input: expected a price per million tokens"),
        ([], "avo_price_input = -1\navo_price_output = 1", "avo_price_input: expected a price of at least zero"),
        (["--avo-max-evaluations", "0"], "", "--avo-max-evaluations: expected at least 1, got 0"),
        (["--avo-base-url", "localhost:8000"], "", "--avo-base-url: expected a URL such as http://localhost:8000/v1"),
        (["--avo-base-url", "http://"], "", "--avo-base-url: expected a URL such as .*, got 'http://'"),
        (["--avo-base-url", "http://a b/v1"], "", "--avo-base-url: expected a URL such as .*, got 'http://a b/v1'"),
        (["--avo-turns", "0"], "", "--avo-turns: expected at least 1, got 0"),
        (["--avo-cycle", "1"], "", "--avo-cycle: expected at least 2, got 1"),
        (["--avo-context", "10"], "", "--avo-context: expected at least 4000, got 10"),
        (["--avo-model-timeout", "inf"], "", r"--avo-model-timeout: expected a number below 1e\+18, got inf"),
        (["--avo-seed", str(10**19)], "", r"--avo-seed: expected a number below 1e\+18, got 1000"),
        (["--avo-max-time", f"{10**9}h"], "", "--avo-max-time: expected a duration"),
        (["--avo-limits", "build=inf"], "", "--avo-limits: 'build=inf': expected PHASE=SECONDS"),
        (["--avo-model-timeout", "nan"], "", "--avo-model-timeout: expected at least 1, got nan"),
        (["--avo-knowledge", "x", "--avo-no-knowledge"], "", "--avo-knowledge and --avo-no-knowledge"),
    ],
)
def test_what_is_refused(project: Project, arguments: list[str], ini: str, message: str) -> None:
    project.pytester.makeini(f"[pytest]\n{ini}\n")
    with pytest.raises(InvalidInput, match=message):
        settings(project, *arguments)


def test_operators_by_name(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    found = settings(project, "--avo-model", "m", "--avo-no-memory")
    names = {name: load_operator(name, chosen(found)) for name in ("agent", "oneshot", "tuner")}
    assert {name: operator.name for name, operator in names.items()} == {name: name for name in names}
    assert names["agent"].describe() == "agent (m at OpenAI, no memory)"
    with pytest.raises(
        InvalidInput,
        match=r"expected one of agent, .*tuner or MODULE:ATTRIBUTE, got 'genius'",
    ):
        load_operator("genius", chosen(found))
    with pytest.raises(InvalidInput, match="'nowhere:Operator' cannot be loaded"):
        load_operator("nowhere:Operator", chosen(found))
    with pytest.raises(InvalidInput, match="--avo-operator: 'json:nosuch' cannot be loaded: "):
        load_operator("json:nosuch", chosen(found))


def test_a_folder_of_knowledge_that_is_not_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    found = settings(project, "--avo-model", "m", "--avo-knowledge", "nowhere")
    with pytest.raises(InvalidInput, match=r"--avo-knowledge: knowledge folder .*nowhere does not exist"):
        load_operator("agent", chosen(found))


def test_a_key_that_no_header_can_carry(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key of several words")
    found = settings(project, "--avo-model", "m")
    with pytest.raises(InvalidInput, match=r"OPENAI_API_KEY: expected printable ASCII without white space$"):
        load_operator("agent", chosen(found))


@pytest.mark.usefixtures("here")
def test_a_mistake_ends_the_run_before_it_starts(project: Project) -> None:
    result = project.run("--avo-evolve", "kernels/slow.py", "--avo-operator", "agent")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --avo-operator agent: expected --avo-model NAME, the model to ask"])
    assert not (project.path / ".avo").exists()
