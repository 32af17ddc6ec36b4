"""Which environment variables hold secrets, by their names."""

from __future__ import annotations

import re

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a key, a token or a password."""
    return _SECRET.search(name) is not None
