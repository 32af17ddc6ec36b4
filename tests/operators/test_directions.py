from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.operators.directions import direction_of, member_directions


def test_directions_stand_for_themselves_or_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "directions.txt"
    path.write_text("# what to try\nfewer  registers\n\nlarger tiles\n", encoding="utf-8")
    given = ["split the keys", f"file:{path}"]
    assert member_directions(given) == ["split the keys", "fewer registers", "larger tiles"]
    assert [direction_of(member, given) for member in (0, 2, 3)] == ["split the keys", "larger tiles", "split the keys"]
    assert direction_of(0, []) == ""


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_the_users_mistake(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "directions.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"--avo-direction: .*directions\.txt cannot be read"):
        member_directions([f"file:{path}"])
