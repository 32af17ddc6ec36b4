"""The folder `.avo`, where a project keeps what the plugin writes for itself."""

from __future__ import annotations

from pathlib import Path

FOLDER = ".avo"


def make_folder(path: Path) -> None:
    """Make a folder in `.avo` or that itself, and tell git to leave it alone; OSError where it cannot be made."""
    path.mkdir(parents=True, exist_ok=True)
    own = next((each for each in (path, *path.parents) if each.name == FOLDER), None)
    if own is not None and not (own / ".gitignore").exists():
        (own / ".gitignore").write_text("*\n", encoding="utf-8")
