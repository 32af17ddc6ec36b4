"""What never reaches a prompt or a transcript."""

from __future__ import annotations

from pytest_avo.operators.redaction import Redactor

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
