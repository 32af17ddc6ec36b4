"""The text of a kernel: identity and provenance."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_avo.core.kernel import parse_kernel
from pytest_avo.core.source import PROVENANCE, source_digest, text_digest, with_provenance, without_provenance
from tests.core.declared import PATH, SOURCE


def test_provenance_stands_below_what_has_to_be_first() -> None:
    source = f"#!/usr/bin/env python\n# coding: latin-1\n{SOURCE}"
    promoted = with_provenance(source, [f"{PROVENANCE}digest=1"])
    assert promoted.splitlines()[:3] == ["#!/usr/bin/env python", "# coding: latin-1", f"{PROVENANCE}digest=1"]
    assert without_provenance(promoted) == source
    assert with_provenance(promoted, [f"{PROVENANCE}digest=2"]).count(PROVENANCE) == 1


def test_provenance_lines_are_no_part_of_a_kernels_identity() -> None:
    promoted = f"{PROVENANCE}digest=1\n{PROVENANCE}measured=2\n{SOURCE}"
    assert without_provenance(promoted) == SOURCE
    assert source_digest(promoted) == source_digest(SOURCE)
    assert parse_kernel(promoted, path=PATH).digest == source_digest(SOURCE)


def test_only_lines_at_the_head_are_provenance() -> None:
    inside = f"{SOURCE}{PROVENANCE}not at the head\n"
    assert without_provenance(inside) == inside
    assert source_digest(inside) != source_digest(SOURCE)


@pytest.mark.parametrize("separator", "\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_what_is_a_comment_for_python_does_not_become_code_by_a_promotion(separator: str) -> None:
    source = f"{PROVENANCE}digest=1{separator}import os\n{SOURCE}"
    assert without_provenance(source) == SOURCE
    assert ast.dump(ast.parse(with_provenance(source, [f"{PROVENANCE}digest=2"]))) == ast.dump(ast.parse(source))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")), st.lists(st.text(alphabet="abc =.", max_size=9)))
def test_any_text_survives_having_provenance_written_and_removed(source: str, words: list[str]) -> None:
    body = without_provenance(source)
    promoted = with_provenance(source, [f"{PROVENANCE}{word}" for word in words])
    assert without_provenance(promoted) == body
    assert source_digest(promoted) == source_digest(source)


def test_a_digest_is_16_hex_digits_and_follows_the_text() -> None:
    assert len(source_digest(SOURCE)) == 16
    assert int(source_digest(SOURCE), 16) >= 0
    assert source_digest(SOURCE) != source_digest(SOURCE + " ")


def test_what_processes_are_told_by_takes_a_provenance_line_for_another_text_and_is_no_short_hash() -> None:
    assert len(text_digest(SOURCE)) == 32
    assert text_digest(SOURCE) != text_digest(f"{PROVENANCE}digest=1\n{SOURCE}")
