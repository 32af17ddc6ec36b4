"""Files of results: whole or not at all, and a path that cannot be written is found out before the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_avo.core.disk.files import prepare, read_regular, write_atomically
from pytest_avo.core.errors import InvalidInput
from pytest_avo.evaluation.linux import seccomp
from tests import ROOT

WRITES_A_COMMAND = """
import ctypes, sys
from pathlib import Path
from pytest_avo.core.disk.files import write_command
from pytest_avo.evaluation.linux import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no new privileges, without which who is not root may filter nothing
seccomp.restrict(metadata=False)
path = Path(sys.argv[1])
write_command(path, "#!/bin/sh\\n")
try:
    path.chmod(0o700)
except PermissionError:
    sys.exit(0)
sys.exit("modes can be changed")
"""


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
    with pytest.raises(TypeError):
        write_atomically(path, ["no", "text"])  # type: ignore[arg-type]
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_character_is_written_as_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_atomically(path, "half \ud800 a surrogate")
    assert path.read_text(encoding="utf-8") == "half \\ud800 a surrogate"


def test_the_mode_of_a_file_stays_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    write_atomically(path, b"\xe4\r\n")
    assert path.read_bytes() == b"\xe4\r\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_left_is_removed_and_what_another_one_writes_is_not(tmp_path: Path) -> None:
    nobody = 1 << 22  # no process has such a number
    for pid in (nobody, os.getpid()):
        (tmp_path / f".out.json.{pid}.0abc.new").write_text("half of", encoding="utf-8")
    write_atomically(tmp_path / "out.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".out.json.{os.getpid()}.0abc.new", "out.json"]


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


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    file, pipe, device = tmp_path / "file", tmp_path / "pipe", tmp_path / "device"
    file.write_bytes(b"12345")
    assert read_regular(file, most_bytes=5) == b"12345"
    assert read_regular(file, most_bytes=3) == b"1234"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(OSError, match="it is no regular file"):
            read_regular(path, most_bytes=5)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, most_bytes=5)


@pytest.mark.skipif(not seccomp.available(), reason="the filter is for x86-64")
def test_a_command_can_be_run_by_a_process_that_may_not_change_modes(tmp_path: Path) -> None:
    """As a kernel's, where a container offers no mounts of one's own."""
    path = tmp_path / "command"
    done = subprocess.run([sys.executable, "-c", WRITES_A_COMMAND, str(path)], env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8") == "#!/bin/sh\n"
