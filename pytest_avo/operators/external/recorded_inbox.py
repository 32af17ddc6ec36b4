"""A run's candidates as a folder for `--avo-operator inbox`: whoever has the device can have them judged again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.view import View
from pytest_avo.operators.external.inbox import END, InboxNote
from pytest_avo.operators.knowledge.versions import version_name

SEED = "seed.txt"
"""The kernel as it was when the run began; not NAME.py, since it is no candidate."""


def write_inbox(view: View, folder: Path) -> int:
    """Write seed, candidates with what was said of them, and the end; how many candidates there are.

    Left out are attempts that brought no candidate, and those that nobody has judged yet. Names begin with numbers,
    which are the order of the run wherever the folder is copied to. InvalidInput where the folder holds anything.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: expected a folder that is empty or not there yet")
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = view.outcomes()
    number = 0
    for attempt in view.attempts():
        source = view.source(attempt.digest)
        if attempt.parent is None:
            write_atomically(folder / SEED, source)
        elif attempt.id in outcomes and outcomes[attempt.id].status != "failed":
            number += 1
            path = folder / f"{number:04d}-{version_name(attempt)}.py"
            note = InboxNote(hypothesis=attempt.hypothesis, predicted=attempt.predicted)
            write_atomically(
                path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
            )
            write_atomically(path, source)
    write_atomically(folder / END, "")
    return number
