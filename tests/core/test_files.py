"""Files of results: whole or not at all, and a path that cannot be written is found out before the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.files import prepare, write_atomically


def test_the_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "latest.json"
    link.symlink_to(tmp_path / "store" / "run1.json")
    write_atomically(link, "{}")
    assert link.is_symlink()
    assert (tmp_path / "store" / "run1.json").read_text(encoding="utf-8") == "{}"


def test_an_old_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half \ud800 a surrogate")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["folder", "file/out.json", "x" * 300])
def test_a_path_that_cannot_be_written_is_the_users_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    path = tmp_path / name
    with pytest.raises(InvalidInput, match=r"cannot be written: .*; expected the path of a file") as raised:
        write_atomically(path, "text")
    assert str(raised.value).startswith(f"{path}: ")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


def test_a_device_file_is_refused_before_the_run() -> None:
    with pytest.raises(InvalidInput, match="it is no regular file"):
        prepare(Path("/dev/null"))


def test_a_folder_is_made_before_the_run(tmp_path: Path) -> None:
    prepare(tmp_path / "new" / "out.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert list((tmp_path / "new").iterdir()) == []
