"""What never reaches a prompt or a transcript."""

from __future__ import annotations

import pytest

from pytest_avo.operators.model.redaction import Redactor

ENVIRONMENT = {
    "OPENAI_API_KEY": "local-key-0123456789",
    "REGISTRY_TOKEN": "token-abcdef-0123456789",
    "TOKEN_MODE": "standard",
    "LANG": "en_GB.UTF-8-and-long",
    "HOME": "/home/ada",
}


def test_values_of_secret_variables_go_and_words_stay() -> None:
    redactor = Redactor.of_environment(ENVIRONMENT)
    text = "key local-key-0123456789 and token-abcdef-0123456789, standard mode, en_GB.UTF-8-and-long"
    assert redactor.text(text) == "key [redacted] and [redacted], standard mode, en_GB.UTF-8-and-long"


def test_home_becomes_a_tilde_only_where_it_is_the_home() -> None:
    redactor = Redactor.of_environment(ENVIRONMENT)
    assert redactor.text('File "/home/ada/run/kernel.py"') == 'File "~/run/kernel.py"'
    assert redactor.text("/home/adam/x and /srv/home/ada") == "/home/adam/x and /srv/home/ada"


def test_root_as_home_redacts_nothing() -> None:
    assert Redactor(home="/").text("/usr/bin/g++") == "/usr/bin/g++"


def test_keys_of_well_known_shape_go_even_when_unknown() -> None:
    assert Redactor().text("use sk-proj-abcdefghijklmnop1234 here") == "use [redacted] here"


@pytest.mark.parametrize(
    "key",
    ["sk-ant-api03-AbCd_efGhIjKlMnOpQr5tUv-w", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "hf_AbCdEfGhIjKlMnOp7r"],
)
def test_keys_of_several_kinds(key: str) -> None:
    assert Redactor().text(f"({key})") == "([redacted])"


@pytest.mark.parametrize(
    "code", ["sk_blocks_per_split_aligned = 1", "x = sk-seqlen_q_padded_to_128", "hf_attention_reference(q, k, v)"]
)
def test_code_is_no_key(code: str) -> None:
    assert Redactor().text(code) == code


def test_a_secret_that_contains_another_goes_whole() -> None:
    assert Redactor(["abcdef", "abcdef-ghijkl"]).text("abcdef-ghijkl abcdef") == "[redacted] [redacted]"


def test_nested_data() -> None:
    redactor = Redactor(["s3cret-s3cret"])
    data = {"messages": [{"content": "say s3cret-s3cret"}], "n": 3, "parts": ("s3cret-s3cret", None)}
    assert redactor.data(data) == {
        "messages": [{"content": "say [redacted]"}],
        "n": 3,
        "parts": ["[redacted]", None],
    }
