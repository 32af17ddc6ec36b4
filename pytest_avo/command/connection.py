"""From a member's folder to its running evolution and back."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from pytest_avo.operators.external.wire import CLOSED, STEP_FILE, STEP_VARIABLE, USAGE, Reply, Request


class NoStep(Exception):
    """There is nobody to speak to; the message says why, `status` what the command ends with."""

    def __init__(self, text: str, *, status: int = CLOSED) -> None:
        super().__init__(text)
        self.status = status


def here() -> Path:
    """The current folder; NoStep where somebody has removed it."""
    try:
        return Path.cwd()
    except OSError as error:
        raise NoStep(f"the current folder cannot be read: {error.strerror}", status=USAGE) from None


def member_folder(start: Path) -> Path:
    """The member's folder: the nearest from `start` upwards, else the one that the environment names."""
    for folder in (start, *start.parents):
        if (folder / STEP_FILE).is_file():
            return folder
    named = os.environ.get(STEP_VARIABLE, "")
    if named and (Path(named) / STEP_FILE).is_file():
        return Path(named)
    raise NoStep(
        f"there is no {STEP_FILE} here or above: expected the folder of a member, which "
        "`pytest --avo-evolve --avo-operator coding-agent` makes, or its path in AVO_STEP",
        status=USAGE,
    )


def ask(folder: Path, request: Request) -> Reply:
    """The reply of the evolution; waits for it as long as it takes. NoStep where it has ended."""
    try:
        path = str(json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))["socket"])
    except (OSError, ValueError, KeyError, TypeError):
        raise NoStep(f"{folder / STEP_FILE} cannot be read: expected what the evolution wrote there") from None
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(path)
            line.sendall(request.line())
            answer = b"".join(iter(lambda: line.recv(1 << 16), b""))
        except OSError as error:
            reason = "it has ended, or was killed: --avo-resume continues it"
            raise NoStep(f"no evolution answers for {folder} ({error.strerror}): {reason}") from None
    if not answer.endswith(b"\n"):
        raise NoStep("the evolution ended meanwhile: what it had evaluated by then is kept")
    return Reply.of(answer)
