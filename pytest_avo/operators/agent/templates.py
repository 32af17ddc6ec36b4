"""The prompts, files with `${name}` placeholders."""

from __future__ import annotations

import string
from importlib import resources
from typing import Literal

Prompt = Literal["system", "task", "supervisor", "oneshot"]


def render(prompt: Prompt, values: dict[str, str]) -> str:
    """The prompt with every placeholder filled; `ValueError` if a value is missing or has no place."""
    template = _template(prompt)
    wanted = set(template.get_identifiers())
    if wanted != values.keys():
        missing, unknown = sorted(wanted - values.keys()), sorted(values.keys() - wanted)
        raise ValueError(f"prompt {prompt}.md: missing values {missing}, values without a placeholder {unknown}")
    return template.substitute(values)


def _template(prompt: Prompt) -> string.Template:
    text = resources.files(__package__).joinpath("prompts", f"{prompt}.md").read_text(encoding="utf-8")
    template = string.Template(text)
    if not template.is_valid():
        raise ValueError(f"prompt {prompt}.md: a $ that starts no placeholder must be written $$")
    return template
