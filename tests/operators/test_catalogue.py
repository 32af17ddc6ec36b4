from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.catalogue import entry, load_operator, names
from pytest_avo.operators.entry import OperatorChoices
from pytest_avo.operators.tuner.tuner import Tuner

NOTHING = AgentSettings()


def test_an_operator_is_found_by_its_name_or_by_its_place(tmp_path: Path) -> None:
    for name in ("tuner", "pytest_avo.operators.tuner.tuner:Tuner"):
        assert isinstance(load_operator(name, OperatorChoices(agent=NOTHING, folder=tmp_path)), Tuner)


def test_those_that_ask_a_model_are_made_from_the_settings(tmp_path: Path) -> None:
    settings = AgentSettings(model="scripted", base_url="http://127.0.0.1:9/v1")
    for name, kind in (("agent", "AgenticOperator"), ("oneshot", "OneshotOperator")):
        assert type(load_operator(name, OperatorChoices(agent=settings, folder=tmp_path))).__name__ == kind


def test_every_shipped_operator_has_an_entry() -> None:
    assert {name: entry(name).asks_model for name in names()} == {
        "agent": True,
        "coding-agent": True,
        "inbox": False,
        "oneshot": True,
        "tuner": False,
    }
    assert [name for name in names() if entry(name).answers_at_once] == ["tuner"]


def test_a_name_that_is_none_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^--avo-operator: expected one of agent, .*tuner or MODULE:ATTRIBUTE"):
        load_operator("genius", OperatorChoices(agent=NOTHING, folder=tmp_path))


@pytest.mark.parametrize("name", ["no_such_module:Operator", "pathlib:Operator"])
def test_what_cannot_be_loaded_says_why(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{name}' cannot be loaded: .*(no_such_module|Operator)"):
        load_operator(name, OperatorChoices(agent=NOTHING, folder=tmp_path))


@pytest.mark.parametrize(
    "name", ["os:getcwd", "os:path", "os:", ":Operator", "json.nothing:X", "lame:Broken", "lame:Lame", "bad:X"]
)
def test_what_is_no_operator_says_what_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lame.py").write_text(
        "class Lame:\n    name, describe, propose = 7, print, print\n"
        "class Broken:\n    def __init__(self):\n        1 / 0\n"
    )
    (tmp_path / "bad.py").write_text("def (:\n")
    with pytest.raises(InvalidInput, match=f"^--avo-operator: '{name}'.*expected a class without arguments that has"):
        load_operator(name, OperatorChoices(agent=NOTHING, folder=tmp_path))
    sys.modules.pop("lame", None)
