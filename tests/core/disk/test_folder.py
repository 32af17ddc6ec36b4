from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.disk.folder import make_folder


@pytest.mark.parametrize("below", ["", "runs/run1"])
def test_git_leaves_the_folder_alone(tmp_path: Path, below: str) -> None:
    made = tmp_path / ".avo" / below
    make_folder(made)
    assert made.is_dir()
    assert (tmp_path / ".avo" / ".gitignore").read_text() == "*\n"


def test_what_the_user_wants_git_to_see_stays(tmp_path: Path) -> None:
    (tmp_path / ".avo").mkdir()
    (tmp_path / ".avo" / ".gitignore").write_text("!baselines\n")
    make_folder(tmp_path / ".avo" / "baselines")
    assert (tmp_path / ".avo" / ".gitignore").read_text() == "!baselines\n"


def test_a_folder_of_another_name_gets_no_such_file(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []
