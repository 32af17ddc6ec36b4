"""Pages are an extra: where what draws is absent, their tests are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("drawsvg") else ["test_*.py"]
