"""Which spool and which kind of device `--tx spool=DIR` means."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_avo import __version__
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.notes import Introduction
from pytest_avo.evaluation.spool.places import SpoolAddress, choose, introductions, spool_of
from tests.evaluation.spool.desk import KIND, OTHER


def introduced(kind: Fingerprint, version: str = __version__) -> Introduction:
    return Introduction(version, "box", kind, ("cudnn",), "landlock 7")


def test_a_spool_is_found_among_the_specs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert spool_of(["popen", "ssh=host"]) is None
    assert spool_of(["spool=some/dir"]) == SpoolAddress(tmp_path / "some" / "dir")
    assert spool_of(["spool=/abs//device=H200"]) == SpoolAddress(Path("/abs"), "H200")


@pytest.mark.parametrize("spec", ["spool=", "spool=//device=a", "spool=a//gpu=1", "spool=a//device=", "spool=a//b"])
def test_a_wrong_spec_says_what_was_expected(spec: str) -> None:
    with pytest.raises(InvalidInput, match=f"--tx {spec}: expected spool=DIR"):
        spool_of([spec])


def test_a_spool_goes_alone() -> None:
    with pytest.raises(InvalidInput, match="expected no other --tx or -n beside a spool, got 1 more"):
        spool_of(["popen", "spool=a"])


def test_what_another_version_introduced_counts_for_nothing(folder: SpoolFolder) -> None:
    folder.publish("devices", "a.json", introduced(KIND))
    folder.publish("devices", "b.json", introduced(OTHER, version="0.0.1"))
    (folder.path / "devices" / "notes.txt").write_text("buy milk")
    assert introductions(folder) == [introduced(KIND)]


@pytest.mark.parametrize("device", ["h200", "NVIDIA H200", KIND.kind])
def test_one_of_several_kinds_is_named(device: str) -> None:
    assert choose([introduced(OTHER), introduced(KIND)], SpoolAddress(Path("a"), device)).fingerprint == KIND


def test_several_kinds_are_not_chosen_among() -> None:
    both = [introduced(KIND), introduced(OTHER)]
    with pytest.raises(
        InvalidInput, match=r"several kinds of device have served it .*NVIDIA H100 there, NVIDIA H200 here"
    ):
        choose(both, SpoolAddress(Path("a")))
    with pytest.raises(InvalidInput, match="it was served by sm90: NVIDIA H200; sm90: NVIDIA H100"):
        choose(both, SpoolAddress(Path("a"), "B200"))


def test_a_file_system_without_hard_links_is_no_place_for_a_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SpoolFolder(tmp_path).make()
    assert list((tmp_path / "unfinished").iterdir()) == []

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InvalidInput, match=r"cannot be a spool: its files cannot have second names \(hard links\)"):
        SpoolFolder(tmp_path).make()
    assert list((tmp_path / "unfinished").iterdir()) == []
