"""The table of options: what the parser and the reference are made from."""

from __future__ import annotations

import re

import pytest

from pytest_avo.run.mode import MODES
from pytest_avo.session.options.measuring import MODE_OPTIONS
from pytest_avo.session.options.option import Option
from pytest_avo.session.options.table import INI_KEYS, OPTIONS

pytest_plugins = ["pytester"]


def test_every_mode_has_its_option() -> None:
    assert tuple(MODE_OPTIONS) == MODES


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_helps_are_phrases_that_name_the_default(option: Option) -> None:
    assert option.help[0].isupper()
    assert not option.help.endswith(".")
    assert "{default}" not in option.text
    if option.default is not None:
        assert "(default: {default})" in option.help


def test_what_is_not_given_can_be_told_from_a_default(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig()
    assert all(not getattr(config.option, name) for name in OPTIONS)


def test_ini_keys_and_variables_are_named_after_their_option(pytester: pytest.Pytester) -> None:
    option = OPTIONS["avo_base_url"]
    assert (option.ini_key, option.variable) == ("avo_base_url", "PYTEST_AVO_BASE_URL")
    config = pytester.parseconfig()
    assert all(config.getini(key.name) == ("" if key.type == "string" else list(key.default)) for key in INI_KEYS)
    assert all(re.fullmatch(r"avo_[a-z_]+", key.name) for key in INI_KEYS)
