"""Edits of a draft: what is applied, and what a wrong edit is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_avo.operators.tools.edits import MAX_DRAFT_CHARS, EditError, Replacement, apply, unified_diff, write

DRAFT = '''\
"""A kernel."""

BLOCK_Q = 64
BLOCK_K = 64


def attention(q, k, v, *, causal, scale):
    for start in range(0, q.shape[2], BLOCK_Q):
        rows = q[:, :, start : start + BLOCK_Q]
        scores = rows @ k.transpose(-1, -2) * scale
    return scores @ v
'''


def test_exact_replacement_carries_text_and_diff() -> None:
    edit = apply(DRAFT, [Replacement("BLOCK_Q = 64", "BLOCK_Q = 128")])
    assert edit.text == DRAFT.replace("BLOCK_Q = 64", "BLOCK_Q = 128")
    assert "-BLOCK_Q = 64\n+BLOCK_Q = 128\n" in edit.diff


def test_replacements_are_made_in_order_on_the_result_of_those_before() -> None:
    edit = apply(DRAFT, [Replacement("BLOCK_Q = 64", "BLOCK_Q = 96"), Replacement("BLOCK_Q = 96", "BLOCK_Q = 32")])
    assert "BLOCK_Q = 32" in edit.text


def test_one_failing_replacement_undoes_all_and_is_named() -> None:
    with pytest.raises(EditError, match=r"^replacement 2 of 2: the search text does not occur"):
        apply(DRAFT, [Replacement("BLOCK_Q = 64", "BLOCK_Q = 32"), Replacement("BLOCK_H = 4", "BLOCK_H = 8")])


def test_no_match_shows_the_nearest_text_with_line_numbers() -> None:
    with pytest.raises(EditError) as caught:
        apply(DRAFT, [Replacement("        rows = q[:, :, start : BLOCK_Q]\n        scores = rows @ k.T * scale", "x")])
    assert "lines 9 to 10" in str(caught.value)
    assert "    9 |         rows = q[:, :, start : start + BLOCK_Q]" in str(caught.value)


def test_no_match_says_when_only_white_space_differs() -> None:
    with pytest.raises(EditError, match="differs only in white space") as caught:
        apply(
            DRAFT,
            [
                Replacement(
                    "for start in range(0, q.shape[2], BLOCK_Q):\n    rows = q[:, :, start : start + BLOCK_Q]", ""
                )
            ],
        )
    assert "lines 8 to 9" in str(caught.value)


def test_no_match_with_a_search_longer_than_the_draft() -> None:
    with pytest.raises(EditError, match="Nearest text, line 1:"):
        apply("x = 1\n", [Replacement("x = 2\ny = 3\nz = 4", "")])


def test_ambiguous_match_names_every_line() -> None:
    with pytest.raises(EditError, match=r"occurs 4 times, starting at lines 3, 8, 8, 9") as caught:
        apply(DRAFT.replace("range(0, q", "range(BLOCK_Q, q"), [Replacement("BLOCK_Q", "BLOCK_M")])
    assert "until it occurs once" in str(caught.value)


def test_overlapping_matches_are_ambiguous() -> None:
    with pytest.raises(EditError, match="occurs 2 times"):
        apply("aXaXa\n", [Replacement("aXa", "b")])


@pytest.mark.parametrize(
    ("replacements", "message"),
    [
        ([], "no replacement given"),
        ([Replacement("", "x")], "the search text is empty"),
        ([Replacement("BLOCK_K", "BLOCK_K")], "are the same"),
        ([Replacement("A kernel", "A \0 kernel")], "NUL"),
        ([Replacement("A kernel", "A" * MAX_DRAFT_CHARS)], "a draft may have 400,000"),
        ([Replacement("BLOCK_K = 64", "BLOCK_K = 32"), Replacement("BLOCK_K = 32", "BLOCK_K = 64")], "changes nothing"),
    ],
)
def test_edits_that_cannot_be_meant(replacements: list[Replacement], message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(DRAFT, replacements)


def test_search_in_an_empty_draft() -> None:
    with pytest.raises(EditError, match="the draft is empty"):
        apply("", [Replacement("x", "y")])


def test_write_replaces_the_whole_draft_and_ends_it_with_a_newline() -> None:
    edit = write(DRAFT, "x = 1")
    assert edit.text == "x = 1\n"
    assert "+x = 1\n" in edit.diff


@pytest.mark.parametrize(("new", "message"), [("  \n", "the new file is empty"), (DRAFT, "changes nothing")])
def test_write_refuses_nothing_and_no_change(new: str, message: str) -> None:
    with pytest.raises(EditError, match=message):
        write(DRAFT, new)


def test_diff_of_equal_texts_is_empty() -> None:
    assert unified_diff(DRAFT, DRAFT) == ""


lines = st.lists(st.sampled_from(["a = 1", "b = 2", "  c", "", "d(e)"]), min_size=1, max_size=12)


@given(lines, lines)
def test_a_search_is_applied_exactly_where_it_occurs_once(text: list[str], search: list[str]) -> None:
    draft, wanted = "\n".join(text), "\n".join(search)
    if wanted and sum(draft.startswith(wanted, offset) for offset in range(len(draft))) == 1:
        assert apply(draft, [Replacement(wanted, "Z")]).text == draft.replace(wanted, "Z")
    else:
        with pytest.raises(EditError, match=r"empty|does not occur|times"):
            apply(draft, [Replacement(wanted, "Z")])
