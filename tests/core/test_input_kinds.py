"""Names of the kinds of timed inputs: each is described for users."""

from __future__ import annotations

from typing import get_args

from pytest_avo.core.input_kinds import INPUT_KINDS, USUAL, InputKind


def test_every_kind_is_described() -> None:
    assert list(INPUT_KINDS) == list(get_args(InputKind))
    assert all(INPUT_KINDS.values())


def test_what_a_suite_has_that_names_none_is_a_kind() -> None:
    assert set(USUAL) <= INPUT_KINDS.keys()
