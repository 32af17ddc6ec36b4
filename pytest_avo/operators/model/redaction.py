"""Keeping secrets out of prompts and transcripts: keys, tokens and the home directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pytest_avo.core.secret_names import is_secret

# A key has a long run with a digit in it: sk_blocks_per_split and sk-seqlen_q_padded are code.
_KEY_SHAPED = re.compile(
    r"\b(?:sk|pk|ghp|gho|hf|xox[bp])[-_](?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Za-z0-9]{16})[A-Za-z0-9_-]+"
)
# Shorter values are words ("standard", "us") rather than secrets, and redacting words would garble sources.
_SHORTEST_SECRET = 12


class Redactor:
    """Replaces known secrets and the home directory in text and in JSON-like data."""

    def __init__(self, secrets: Iterable[str] = (), *, home: str | None = None) -> None:
        """Hide `secrets` wherever they occur and write `home` as `~`."""
        longest_first = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._secrets = re.compile("|".join(re.escape(secret) for secret in longest_first)) if longest_first else None
        stem = (home or "").rstrip("/")
        self._home = re.compile(rf"(?<![\w.-]){re.escape(stem)}(?![\w.-])") if stem else None

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Redactor:
        """Hide the values of variables named like secrets, and the home directory."""
        secrets = (value for name, value in environ.items() if is_secret(name) and len(value) >= _SHORTEST_SECRET)
        return cls(secrets, home=environ.get("HOME"))

    def text(self, text: str) -> str:
        """The text with every secret, and everything shaped like a well-known kind of key, replaced."""
        if self._secrets is not None:
            text = self._secrets.sub("[redacted]", text)
        text = _KEY_SHAPED.sub("[redacted]", text)
        return text if self._home is None else self._home.sub("~", text)

    def data(self, value: object) -> object:
        """The same for nested dicts, lists and strings; anything else is returned as it is."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {key: self.data(item) for key, item in value.items()}
            case list() | tuple():
                return [self.data(item) for item in value]
            case _:
                return value
