"""What every page is: one file that loads nothing, in which nothing runs but its own script.

Templates escape whatever they are given. The policy names style and script by their digests, so that text which got
through nevertheless would not run.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pytest_avo import __version__

FOLDER = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(FOLDER, encoding="utf-8")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page(template: str, *, title: str, live: str = "", **values: object) -> str:
    """A page by one of the templates. `live` is the state that it shows, where it asks its server for a newer one."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = [
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            live=live,
            policy="; ".join(policy),
            style=Markup(style),
            script=Markup(script),
            version=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **values,
        )
    )


def _digest(text: str) -> str:
    """How a policy names an element by what it holds."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
