"""From what the user named to the baseline that kernels are compared with."""

from __future__ import annotations

from pathlib import Path

from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.gate.gate import Gate
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.refs import PREFIX, at_ref
from pytest_avo.gate.store import prepare_saving, stored


def open_gate(settings: GateSettings, rootdir: Path, *, fingerprint: Fingerprint, floor: float) -> Gate | None:
    """The gate that the user asked for, or None; InvalidInput where there is no such baseline.

    fingerprint: of the device that this run measures on.
    """
    name = settings.compare
    if name is None:
        return None
    if name.startswith(PREFIX):
        return Gate(at_ref(name.removeprefix(PREFIX), rootdir), settings.rules, lenient=settings.lenient, floor=floor)
    found = stored(name, settings.folder, fingerprint=fingerprint, allow_mismatch=settings.allow_mismatch)
    return Gate(found, settings.rules, lenient=settings.lenient, floor=floor)


def check_baseline(settings: GateSettings, rootdir: Path) -> None:
    """InvalidInput where there is no such baseline, as far as no device is asked for that, or none can be stored."""
    if settings.save is not None:
        prepare_saving(settings.save)
    if settings.compare is not None and settings.compare.startswith(PREFIX):
        at_ref(settings.compare.removeprefix(PREFIX), rootdir)
