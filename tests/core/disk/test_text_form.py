"""Files as editors leave them: read as Python reads them, written back as they were."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from pytest_avo.core.disk.text_form import TextForm, as_read_back, declared, decoded

TEXT = 'x = "naïve"\n\n\ndef f():\n    return x\n'
LATIN = "# -*- coding: latin-1 -*-\n" + TEXT


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TEXT.encode(), TEXT),
        (TEXT.replace("\n", "\r\n").encode(), TEXT),
        (TEXT.replace("\n", "\r").encode(), TEXT),
        (codecs.BOM_UTF8 + TEXT.encode(), TEXT),
        (codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n").encode(), TEXT),
        (LATIN.encode("latin-1"), LATIN),
        (f"#!/usr/bin/python\n{LATIN}".encode("latin-1"), f"#!/usr/bin/python\n{LATIN}"),
        (b"", ""),
        (b"x = 1", "x = 1"),
    ],
)
def test_a_file_is_read_as_python_reads_it_and_written_back_as_it_was(data: bytes, text: str) -> None:
    assert decoded(data) == text
    assert TextForm.of(data).encoded(text) == data


@pytest.mark.parametrize("data", [b'x = "\xe9"\n', b"# coding: nosuch\n", codecs.BOM_UTF8 + b"# coding: latin-1\n"])
def test_what_python_cannot_read_is_an_error(data: bytes) -> None:
    with pytest.raises((SyntaxError, UnicodeDecodeError)):
        decoded(data)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x = 1\n# coding: latin-1\n", "utf-8"),
        ("\n# vim: set fileencoding=cp1252 :\n", "cp1252"),
        ("# coding: nosuch\n", "utf-8"),
        ("# coding: utf-8-sig\n", "utf-8"),
    ],
)
def test_a_declaration_counts_where_python_looks_for_it(text: str, name: str) -> None:
    assert declared(text) == name


def test_a_character_that_the_declared_encoding_lacks_makes_the_file_utf_8(tmp_path: Path) -> None:
    text = LATIN.replace("naïve", "naïve → fast")
    data = TextForm.of(LATIN.encode("latin-1")).encoded(text)
    assert decoded(data) == text.replace("latin-1", "utf-8")
    (tmp_path / "k.py").write_bytes(data)
    compile(data, "k.py", "exec")


def test_the_most_frequent_line_end_is_kept() -> None:
    assert TextForm.of(b"a\r\nb\r\nc\n").newline == "\r\n"


def test_half_a_character_is_an_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        TextForm().encoded('x = "\ud800"\n')


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r", 1),
        "\ufeff" + TEXT,
        LATIN,
        LATIN.replace("naïve", "naïve → fast"),
        "# coding: nosuch\n" + TEXT,
        "# coding: rot13\n" + TEXT,
        "# coding: utf-16\n" + TEXT,
        "# coding: ascii\n" + TEXT,
    ],
)
def test_whatever_a_text_is_like_the_file_that_it_becomes_reads_back_as_one_text(
    text: str, newline: str, mark: bool
) -> None:
    once = as_read_back(text)
    assert decoded(TextForm(mark=mark, newline=newline).encoded(once)) == once
    assert once.splitlines()[-1] == "    return x"
    assert as_read_back(once) == once
