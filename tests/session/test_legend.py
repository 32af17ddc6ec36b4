"""The letters of a run, explained once."""

from __future__ import annotations

import msgspec

from pytest_avo.session.items.letters import legend
from tests.report.result_rows import row, shape


def test_letters_that_are_not_pytests_own_are_explained_where_they_were_shown() -> None:
    faster, wrong = row(shape(), "faster"), row(shape(), "incorrect", reason="max error 3")
    assert [line.text for line in legend([faster, row(shape())], verbosity=0)] == ["letters: + faster"]
    assert legend([faster], verbosity=1) == []
    assert legend([row(shape())], verbosity=0) == []
    turned_down = legend([msgspec.structs.replace(wrong, failed=False)], verbosity=0)
    assert [line.text for line in turned_down] == ["letters: r a candidate that was turned down"]
    assert legend([msgspec.structs.replace(wrong, failed=True)], verbosity=0) == []
