"""The verb that hands a kernel on: `avo export-kernel`, a folder in the layout of the Hugging Face kernel hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pytest_avo.operators.external.wire import WRONG, Reply


def add_verbs(verbs: Any) -> None:
    """Register it."""
    words = "Write a kernel as a repository of the Hugging Face kernel hub, which the package `kernels` loads"
    verb = verbs.add_parser("export-kernel", help=words, description=f"{words}.")
    verb.add_argument("kernel", type=Path, metavar="FILE", help="a kernel, as promotions leave it in kernels/")
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    verb.add_argument("--name", help="default: avo-, the target and the file's name, with dashes")
    verb.add_argument("--license", default="apache-2.0", help="an identifier of the hub (default: apache-2.0)")
    verb.add_argument("--json", action="store_true", help="answer with a JSON object")
    verb.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> Reply:
    from pytest_avo.core.disk.files import write_atomically
    from pytest_avo.core.errors import InvalidInput
    from pytest_avo.core.kernel import read_kernel
    from pytest_avo.report.hub import hub_files

    folder = given.folder.absolute()
    try:
        kernel = read_kernel(given.kernel)
        target = kernel.claim.target if kernel.claim else "unclaimed"
        name = given.name or f"avo-{target}-{given.kernel.stem}".lower().replace("_", "-")
        files = hub_files(kernel, name=name, license_=given.license)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise InvalidInput(f"{given.folder}: expected a new or empty folder")
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / path, text)
    except InvalidInput as error:
        return Reply(text=f"error: {error}", status=WRONG)
    except OSError as error:
        return Reply(text=f"error: {given.folder}: cannot be written: {error.strerror}", status=WRONG)
    load = f'kernels.get_local_kernel(pathlib.Path("{given.folder}")).attention'
    return Reply(text=f"{given.folder}: {name}, loaded by {load}", data={"path": str(folder), "name": name})
