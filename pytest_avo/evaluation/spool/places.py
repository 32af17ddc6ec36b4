"""From `--tx spool=DIR` to a spool and the kind of device that serves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_avo import __version__
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import differences_in_kind
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.notes import Introduction

EXPECTED = "expected spool=DIR, or spool=DIR//device=NAME where several kinds of device have served it"


@dataclass(frozen=True, slots=True)
class SpoolAddress:
    """A spool as the user names it."""

    path: Path
    device: str = ""
    """What its target is, or a part of its name; "" where there is one kind only."""


def spool_of(specs: Sequence[str]) -> SpoolAddress | None:
    """The spool among the specs of --tx; None where there is none. InvalidInput for a wrong or a mixed one."""
    named = [spec for spec in specs if spec.startswith("spool=")]
    if not named:
        return None
    if len(specs) > 1:
        raise InvalidInput(f"--tx {named[0]}: expected no other --tx or -n beside a spool, got {len(specs) - 1} more")
    path, *options = named[0].removeprefix("spool=").split("//")
    keys = dict(option.partition("=")[::2] for option in options)
    if not path or keys.keys() - {"device"} or not all(keys.values()):
        raise InvalidInput(f"--tx {named[0]}: {EXPECTED}")
    return SpoolAddress(Path(os.path.abspath(path)), keys.get("device", ""))


def introductions(folder: SpoolFolder) -> list[Introduction]:
    """The kinds of device that have served a spool with this version of the package."""
    found = [folder.read("devices", name, Introduction) for name in sorted(folder.names("devices"))]
    return [each for each in found if each is not None and each.version == __version__]


def choose(found: Sequence[Introduction], address: SpoolAddress) -> Introduction:
    """The one kind of device that is meant; InvalidInput where none is, or several are."""
    fits = [each for each in found if _is_meant(each, address.device)]
    if len(fits) == 1:
        return fits[0]
    known = "; ".join(f"{each.fingerprint.target}: {each.fingerprint.device}" for each in found)
    if not fits:
        raise InvalidInput(f"--tx spool={address.path}//device={address.device}: it was served by {known}")
    between = "; ".join(differences_in_kind(fits[0].fingerprint, fits[1].fingerprint))
    raise InvalidInput(
        f"--tx spool={address.path}: several kinds of device have served it ({known}; {between}): {EXPECTED}"
    )


def _is_meant(each: Introduction, device: str) -> bool:
    fingerprint = each.fingerprint
    return device in ("", fingerprint.target, fingerprint.kind) or device.lower() in fingerprint.device.lower()
