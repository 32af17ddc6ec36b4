"""What makes two machines different, and that finding it out stays cheap."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from pytest_avo.core.fingerprint import Fingerprint, differences, differences_in_kind, fingerprint, installed_version

OURS = fingerprint(target="cpu", device="Some CPU", units=2)


def test_a_machine_does_not_differ_from_itself() -> None:
    assert differences(OURS, fingerprint(target="cpu", device="Some CPU", units=2)) == []


@pytest.mark.parametrize("field", Fingerprint.__struct_fields__)
def test_every_field_makes_a_difference(field: str) -> None:
    value = 64 if field == "units" else "something else"
    theirs = msgspec.structs.replace(OURS, **{field: value})
    assert differences(OURS, theirs) == [f"{field}: {value} there, {getattr(OURS, field)} here"]
    assert theirs.digest != OURS.digest


def test_the_digest_survives_storing() -> None:
    stored = msgspec.json.decode(msgspec.json.encode(OURS), type=Fingerprint)
    assert stored.digest == OURS.digest
    assert len(OURS.digest) == 12


def test_versions_are_those_installed() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-package-here") == "absent"
    assert OURS.python == ".".join(map(str, sys.version_info[:3]))


def test_a_fingerprint_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pytest_avo.core.fingerprint import fingerprint; "
        "fingerprint(target='cpu', device='x', units=1); sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


@pytest.mark.parametrize("field", Fingerprint.__struct_fields__)
def test_the_device_and_the_compilers_make_its_kind(field: str) -> None:
    theirs = msgspec.structs.replace(OURS, **{field: 64 if field == "units" else "something else"})
    found = differences_in_kind(OURS, theirs)
    assert found == ([] if field in ("driver", "python", "os") else differences(OURS, theirs))


def test_what_a_kernel_finds_is_said_in_words() -> None:
    ours = msgspec.structs.replace(
        OURS, device="NVIDIA H200", units=132, torch="2.11.0", triton="3.6.0", python="3.12.3"
    )
    assert ours.words == "NVIDIA H200 x132, torch 2.11.0, Triton 3.6.0, Python 3.12.3"
