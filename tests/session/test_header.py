"""The line at the start of a run."""

from __future__ import annotations

import pytest

from pytest_avo.session import header


@pytest.mark.parametrize("noexec", [False, True])
def test_what_cannot_work_here_is_said_at_the_start(noexec: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "is_noexec", lambda _: noexec)
    assert ("mounted noexec" in " ".join(header.limits())) is noexec


@pytest.mark.parametrize(
    ("layers", "shown"),
    [
        ("pid namespace, no network, landlock 7, seccomp, own mounts", ""),
        ("landlock 7, seccomp", " (not offered: pid namespace, no network, own mounts)"),
        ("none", " (not offered: pid namespace, no network, landlock, seccomp, own mounts)"),
        ("off", ""),
    ],
)
def test_layers_that_a_machine_lacks_are_named(layers: str, shown: str) -> None:
    assert header.sandbox(layers) == layers + shown
